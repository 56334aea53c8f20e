"""The wheel: the same bytes wherever it is built, and in it the package, the policies and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.supply.wheel import CHECKOUT, build, copy_sources, main


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    return build(copy_sources(place / "sources"), place / "built")


def files(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_another_place_another_day_and_another_user_make_the_same_bytes(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    sources = copy_sources(tmp_path / "far" / "away")
    for path in sources.rglob("*.py"):
        path.chmod(0o600)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    before = os.umask(0o077)
    try:
        other = build(sources, tmp_path / "built")
    finally:
        os.umask(before)
    assert (other.name, other.read_bytes()) == (wheel.name, wheel.read_bytes())


def test_it_holds_the_package_and_the_policies_and_nothing_else(wheel: Path) -> None:
    expected = {
        f"gateway/{path.relative_to(folder)}": path.read_bytes()
        for folder, path in (
            (CHECKOUT / "gateway", path) for path in (CHECKOUT / "gateway").rglob("*") if path.is_file()
        )
        if "__pycache__" not in path.parts
    }
    policies = CHECKOUT / "policies"
    expected |= {
        f"gateway/policies/{path.relative_to(policies)}": path.read_bytes()
        for path in policies.rglob("*")
        if path.is_file()
    }
    found = files(wheel)
    described = {name for name in found if name.startswith("chat_gateway-")}
    assert {name: content for name, content in found.items() if name not in described} == expected
    assert {name.partition(".dist-info/")[2] for name in described} == {
        *("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"),
    }


def test_it_says_nothing_of_the_machine(wheel: Path) -> None:
    assert str(CHECKOUT).encode() not in b"".join(files(wheel).values())


def test_it_is_handed_out(wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(tmp_path / "dist")
    assert (tmp_path / "dist" / wheel.name).read_bytes() == wheel.read_bytes()
    assert capsys.readouterr().out.endswith(f"  {tmp_path / 'dist' / wheel.name}\n")


def test_two_that_differ_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def restless(sources: Path, folder: Path) -> Path:
        (sources / "gateway" / "note").write_text(sources.name)
        return build(sources, folder)

    monkeypatch.setattr("tests.supply.wheel.build", restless)
    with pytest.raises(SystemExit, match="expected the same bytes"):
        main(tmp_path / "dist")
    assert not (tmp_path / "dist").exists()
