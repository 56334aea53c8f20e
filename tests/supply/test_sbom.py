"""The bill of materials: all of the lock, and nothing of the machine that it was written on."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.supply.sbom import LOCK, ROOT, Json, main, read_lock, sbom

PINNED = read_lock(LOCK.read_text())
HASH = "a" * 64


@pytest.fixture(scope="module")
def told() -> Json:
    return sbom(PINNED, 1_700_000_000)


def test_it_names_what_the_lock_names(told: Json) -> None:
    components = [
        (
            component["name"],
            component["version"],
            tuple(file["content"] for file in component["externalReferences"][0]["hashes"]),
        )
        for component in told["components"]
    ]
    assert components == [(pinned.name, pinned.version, pinned.hashes) for pinned in PINNED]
    assert len(components) > 30
    assert all(hashes for _, _, hashes in components)


def test_every_package_is_there_for_somebody(told: Json) -> None:
    needs = {row["ref"]: set(row["dependsOn"]) for row in told["dependencies"]}
    root = told["metadata"]["component"]["bom-ref"]
    reached, to_do = set[str](), {root}
    while to_do:
        reached |= to_do
        to_do = set().union(*(needs[ref] for ref in to_do)) - reached
    assert reached == {root, *(component["bom-ref"] for component in told["components"])}


def test_it_says_who_needs_whom_also_by_extras(told: Json) -> None:
    name = {component["bom-ref"]: component["name"] for component in told["components"]}
    needs = {name.get(row["ref"]): {name[ref] for ref in row["dependsOn"]} for row in told["dependencies"]}
    assert {"aiosignal", "yarl"} <= needs["aiohttp"]
    assert needs["pyjwt"] == {"cryptography"}
    assert needs["cachetools"] == set()


def test_every_package_has_a_license(told: Json) -> None:
    assert [part["name"] for part in told["components"] if not part.get("licenses")] == []
    assert told["metadata"]["component"]["licenses"] == [{"expression": "Apache-2.0"}]


def test_it_says_nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    main(tmp_path / "new" / "sbom.json")
    text = (tmp_path / "new" / "sbom.json").read_text()
    addresses = set(re.findall(r"[a-z+]+://[^\"]*", text))
    assert addresses == {"http://cyclonedx.org/schema/bom-1.6.schema.json"}
    assert not any(path in text for path in (str(LOCK.parent), sys.prefix, str(Path.home()), "site-packages"))
    assert json.loads(text)["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"


def test_equal_locks_make_equal_files_and_others_do_not(told: Json) -> None:
    assert json.dumps(sbom(PINNED, 1_700_000_000)) == json.dumps(told)
    assert sbom(PINNED[1:], None)["serialNumber"] != told["serialNumber"]
    assert "timestamp" not in sbom(PINNED, None)["metadata"]


@pytest.mark.parametrize(
    "line",
    [
        "aiohttp==3.14.5\n",
        "aiohttp>=3.14 \\\n    --hash=sha256:" + HASH + "\n",
        "--index-url https://index.example/simple\n",
        "aiohttp @ https://files.example/aiohttp.whl\n",
        "aiohttp==3.14.5 \\\n    --hash=md5:" + "a" * 32 + "\n",
    ],
)
def test_a_lock_with_anything_else_is_refused(line: str) -> None:
    sound = f"yarl==1.20.0 \\\n    --hash=sha256:{HASH}\n"
    assert [pinned.purl for pinned in read_lock(sound)] == ["pkg:pypi/yarl@1.20.0"]
    with pytest.raises(ValueError, match="expected nothing but"):
        read_lock(sound + line)


def test_what_is_installed_must_be_what_is_locked() -> None:
    (other,) = read_lock(f"yarl==0.0.1 \\\n    --hash=sha256:{HASH}\n")
    with pytest.raises(ValueError, match=r"yarl: expected 0\.0\.1, as in the lock, got "):
        sbom((other,), None)


def test_the_root_is_no_package_of_its_own(told: Json) -> None:
    assert ROOT not in {component["name"] for component in told["components"]}
