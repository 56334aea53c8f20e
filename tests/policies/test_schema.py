"""The published schemas: they are those of the models, and say of a file what the reader says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gateway.config.clients import ClientRow
from gateway.config.documents import read_file
from gateway.config.policies import ResourceRow
from gateway.config.schema import main, schemas

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "policies"
PUBLISHED = SHIPPED / "schema"

SCHEMAS: Mapping[str, Any] = {name: json.loads(text) for name, text in schemas().items()}

BAD = sorted(
    path
    for path in (HERE / "bad").iterdir()
    # A schema sees one file at a time, and plain data.
    if path.suffix == ".yaml" and read_file(path, path.name)[1] == []
)

#: What only the reader can know: the settings, the other file, and how the parts of a file fit together.
BEYOND = {
    "client-accounts-star-in-list",
    "client-accounts-unknown",
    "client-allow-nonsense",
    "client-allow-unknown-method",
    "client-allow-unknown-resource",
    "client-limits-resource-unknown",
    "client-match-one-of-unknown-issuer",
    "client-with-unknown-issuer",
    "resource-body-of-a-read",
    "resource-bridge-page",
    "resource-cached-not-coalesced",
    "resource-cached-write",
    "resource-chat-elsewhere",
    "resource-chat-twice",
    "resource-coalesced-write",
    "resource-event-elsewhere",
    "resource-from-info-of-itself",
    "resource-from-info-of-writes",
    "resource-of-chat-for-account",
    "resource-path-twice",
    "resource-path-twice-but-for-suffix",
    "resource-read-with-write-action",
    "resource-stream-of-events-without-from",
    "resource-stream-of-writes",
    "resource-stream-without-cache",
    "resource-suffix-inside",
    "resource-suffix-with-xml",
    "resource-tunnel",
    "resource-write-with-read-action",
}


def complaints(path: Path) -> list[str]:
    kind = "resources" if path.name.startswith("resource") else "client"
    document, _ = read_file(path, path.name)
    validator = Draft202012Validator(SCHEMAS[f"{kind}.schema.json"])
    return [error.message for error in validator.iter_errors(document.data)]


def is_error(path: Path) -> bool:
    lines = [line for line in path.read_text().splitlines() if line.startswith("# expect: ")]
    return any(": warning: " not in line for line in lines)


def test_what_is_published_is_what_the_models_say() -> None:
    published = {path.name: path.read_text() for path in PUBLISHED.iterdir()}
    assert published == dict(schemas()), "run `python -m gateway.config.schema policies/schema`"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict(schemas())
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("expected the folder to write to")


@pytest.mark.parametrize(
    "path",
    [SHIPPED / "resources.yaml", *(SHIPPED / "clients").iterdir(), *(HERE / "good" / "clients").iterdir()],
    ids=lambda path: path.name,
)
def test_good_files_are_good(path: Path) -> None:
    assert complaints(path) == []


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_files_are_bad_as_far_as_a_schema_can_see(path: Path) -> None:
    assert bool(complaints(path)) == (is_error(path) and path.stem not in BEYOND)


@pytest.mark.parametrize(
    ("section", "name", "key"),
    [("clients", "client", key) for key in ClientRow.model_fields]
    + [("resources", "resources", key) for key in ResourceRow.model_fields],
)
def test_a_key_without_a_value_is_a_mistake(section: str, name: str, key: str) -> None:
    errors = Draft202012Validator(SCHEMAS[f"{name}.schema.json"]).iter_errors({section: {"a": {key: None}}})
    assert [section, "a", key] in [list(error.absolute_path) for error in errors]


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        (SHIPPED / "resources.yaml", "schema/resources.schema.json"),
        *((path, "../schema/client.schema.json") for path in sorted((SHIPPED / "clients").iterdir())),
        *((path, "../schema/tests.schema.json") for path in sorted((SHIPPED / "tests").iterdir())),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_files_we_ship_tell_editors_of_their_schema(path: Path, schema: str) -> None:
    assert path.read_text().splitlines()[0] == f"# yaml-language-server: $schema={schema}"
    assert (path.parent / schema).is_file()
