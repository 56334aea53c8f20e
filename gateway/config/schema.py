"""JSON Schema of what operators write in `policies/`, for their editors; `check` knows more.

`python -m gateway.config.schema <folder>` writes the files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.config.checking import Model
from gateway.config.clients import NAME, ClientRow
from gateway.config.policies import ResourceRow
from gateway.config.policy_tests import TEST_NAME, CaseRow

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> Mapping[str, str]:
    """The text of each file, by its name."""
    documents = {
        "client.schema.json": _named_rows("clients", ClientRow, NAME),
        "resources.schema.json": _named_rows("resources", ResourceRow, NAME),
        "tests.schema.json": _named_rows("tests", CaseRow, TEST_NAME),
    }
    return {name: json.dumps(document, indent=2) + "\n" for name, document in documents.items()}


def _named_rows(section: str, row: type[Model], names: str) -> dict[str, Any]:
    """A file that is one map of named rows; each name matches the pattern `names`."""
    schema = _tidied(row.model_json_schema())
    shared = schema.pop("$defs", {})
    table = {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": f"^{names}$"},
        "additionalProperties": schema,
    }
    return {
        "$schema": DIALECT,
        "title": f"The {section} of a gateway",
        "type": "object",
        "properties": {section: table},
        "required": [section],
        "additionalProperties": False,
        "$defs": shared,
    }


def _tidied(node: Any) -> Any:
    """A schema without the titles that are made from names, and without null, which stands for no key."""
    if isinstance(node, list):
        return [_tidied(part) for part in node if part != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    kept = {key: _tidied(part) for key, part in node.items() if not _is_noise(key, part)}
    # What was "a rate or null" is just a rate.
    if len(kept.get("anyOf", ())) == 1:
        kept |= kept.pop("anyOf")[0]
    # What pydantic says where something looks at a list before it does.
    if kept.get("type") == "array" and "minLength" in kept:
        kept["minItems"] = kept.pop("minLength")
    return kept


def _is_noise(key: str, value: object) -> bool:
    # A default that is empty is what every reader expects of a key that is not there.
    return (key == "title" and isinstance(value, str)) or (key == "default" and value in (None, [], {}))


def main(arguments: Sequence[str]) -> int:
    """Write the files into the folder that is named."""
    if len(arguments) != 1:
        sys.stderr.write(
            "expected the folder to write to, as in `python -m gateway.config.schema policies/schema`\n"
        )
        return 2
    for name, text in schemas().items():
        Path(arguments[0], name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
