"""Before a start, records of revocations are read too; a gateway that runs is not held back by them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.configuration import Misconfigured, configure
from gateway.demo.stage import set_stage

REVOKED = b'{"client": "partner"}\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A gateway.yaml with a file of revocations and a journal, both in order."""
    address = "127.0.0.1:0"
    config = set_stage(
        tmp_path,
        listen=address,
        admin_listen=address,
        public_url="https://chat.example",
        upstream_url="https://upstream.example",
        app_key="key",
        revocations={"file": "revoked", "journal": "journal"},
    ).config
    for name in ("revoked", "journal"):
        (config.parent / name).write_bytes(REVOKED)
    return config


def mistakes(config: Path, environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(Misconfigured) as refused:
        configure(config, environ, starting=True)
    return refused.value.mistakes


def line_of(config: Path, key: str) -> int:
    return next(n for n, line in enumerate(config.read_text().splitlines(), 1) if key in line)


def test_records_that_are_fit_are_no_mistake(config: Path) -> None:
    assert configure(config, {}, starting=True).warnings == ()


@pytest.mark.parametrize(("setting", "name"), [("file", "revoked"), ("journal", "journal")])
def test_every_line_that_is_unfit_is_told_with_its_setting(config: Path, setting: str, name: str) -> None:
    (config.parent / name).write_bytes(REVOKED + b"{}\n" * 8 + b'nonsense\n{"client": 7}\n')
    place = f"gateway.yaml:{line_of(config, name)}: revocations.{setting}: {name}"
    told = mistakes(config, {})
    assert told[:8] == tuple(f"{place}:{n}: expected one of jti, sub, client, got none" for n in range(2, 10))
    assert told[8:] == (
        f"{place}:10: expected one JSON object, got something else from character 1 on",
        f"{place}:11: client: expected a string, got a number",
    )
    configure(config, {})


def test_they_are_told_beside_other_mistakes(config: Path) -> None:
    (config.parent / "revoked").write_bytes(b"{}\n")
    told = mistakes(config, {"CHAT_GATEWAY_DRAIN_S": "many"})
    assert [line.partition(": expected")[0].partition(": ")[2] for line in told] == [
        "drain_s",
        "revocations.file: revoked:1",
    ]


def test_a_section_that_is_wrong_itself_is_all_that_is_told(config: Path) -> None:
    (told,) = mistakes(config, {"CHAT_GATEWAY_REVOCATIONS": '{"file": 7}'})
    assert "revocations.file: expected " in told


def test_looking_mends_and_makes_nothing(config: Path) -> None:
    folder = config.parent
    (folder / "journal").write_bytes(REVOKED + b'{"client": "to')
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir() if path.is_file())
    configure(config, {}, starting=True)
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir() if path.is_file()) == before
    (folder / "journal").unlink()
    configure(config, {}, starting=True)
    assert not (folder / "journal").exists()
