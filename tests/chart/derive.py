"""`python -m tests.chart.derive` writes what follows from something else in the chart and beside it.

These are the dashboard, the part of `values.schema.json` that is about `config` (from the settings), the
chart's own `resources.yaml`, the table in its README (from the comments of `values.yaml`), and the golden
files (from the profiles). A golden file is there to be read when it changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from gateway.config.settings import Settings
from tests.chart.dashboard import dashboard
from tests.chart.rendering import CHART, GOLDEN, PROFILES, Json, chart, profile, render

POLICIES = CHART.parents[1] / "policies"
#: What the chart itself says in gateway.yaml.
OWN = ("listen", "admin_listen", "policies")
#: Where a text must be more than one: by model and setting.
PATTERNS = {
    ("Settings", "public_url"): r"^https?://[^/?#\s]+(/[^?#\s]*)?$",
    ("Settings", "redis_url"): r"^rediss?(\+sentinel)?://[^@?#\s]+$",
    ("Account", "upstream"): r"^https?://[^/?#\s]+$",
}
_COMMENT = r"^# -- (required: )?"
_BEGIN, _END = "<!-- values: python -m tests.chart.derive -->\n", "<!-- end of values -->\n"


class _Texts(GenerateJsonSchema):
    """What only a function can check is a text at least."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:  # noqa: ARG002 - as it is called
        return {"type": "string", "minLength": 1}


def config_schema() -> tuple[Json, Json]:
    """The schema of `config`, and the definitions it needs, each by its name."""
    whole = Settings.model_json_schema(schema_generator=_Texts)
    models = {**whole.pop("$defs"), "Settings": whole}
    for (model, setting), pattern in PATTERNS.items():
        models[model]["properties"][setting] = {"type": "string", "pattern": pattern}
    for name in OWN:
        del whole["properties"][name]
    del models["Revocations"]["properties"]["journal"]
    tidied = {name: _tidied(model) for name, model in models.items()}
    return tidied.pop("Settings"), {f"config.{name}": model for name, model in tidied.items()}


def _tidied(node: Any) -> Any:
    """Without defaults, descriptions and null, in words of draft 7, for a reader that cannot look ahead."""
    if isinstance(node, list):
        return [_tidied(part) for part in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return {"$ref": node["$ref"].replace("#/$defs/", "#/definitions/config.")}
    choices = [part for part in node.get("anyOf", ()) if part != {"type": "null"}]
    if len(choices) == 1:
        return _tidied(choices[0])
    kept = {key: _tidied(part) for key, part in node.items() if not _is_noise(key, part)}
    if kept.get("type") == "array" and "minLength" in kept:
        kept["minItems"] = kept.pop("minLength")
    if "patternProperties" in kept:
        kept["additionalProperties"] = False
    return kept


def _is_noise(key: str, value: object) -> bool:
    looks_ahead = key == "pattern" and isinstance(value, str) and re.search(r"\(\?[=!]", value)
    # A setting may be called so as well, and is a map then.
    return bool(looks_ahead) or (key in ("title", "description", "default") and not _is_schema(value))


def _is_schema(value: object) -> bool:
    return isinstance(value, dict) and bool({"type", "$ref", "enum", "anyOf"} & value.keys())


def values_schema() -> str:
    """`values.schema.json`: what is written there by hand, and `config`."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    schema["properties"]["config"], definitions = config_schema()
    own = {name: part for name, part in schema["definitions"].items() if not name.startswith("config.")}
    schema["definitions"] = own | definitions
    return json.dumps(schema, indent=2) + "\n"


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Path, default and meaning of each value that a `# --` explains. Raises ValueError for one without."""
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from _rows(root, text.splitlines(), "")


def _rows(node: yaml.MappingNode, lines: list[str], before: str) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        path = f"{before}{key.value}"
        above = lines[key.start_mark.line - 1].strip() if key.start_mark.line else ""
        if above.startswith("# -- "):
            yield path, _shown(yaml.safe_load(yaml.serialize(value)), above), re.sub(_COMMENT, "", above)
        elif isinstance(value, yaml.MappingNode) and value.value:
            yield from _rows(value, lines, f"{path}.")
        else:
            line = key.start_mark.line + 1
            raise ValueError(f"values.yaml:{line}: {path}: expected `# -- ` above, got none")


def _shown(default: object, comment: str) -> str:
    if comment.startswith("# -- required: "):
        return "required"
    text = json.dumps(default)
    return f"`{text}`" if len(text) < 80 else "see `values.yaml`"


def readme() -> str:
    """The chart's README: what is written there by hand, and the table."""
    before, rest = (CHART / "README.md").read_text().split(_BEGIN)
    _, after = rest.split(_END)
    table = ["| value | default | meaning |", "| --- | --- | --- |"]
    table += [
        f"| `{path}` | {default} | {meaning} |"
        for path, default, meaning in rows((CHART / "values.yaml").read_text())
    ]
    return before + _BEGIN + "\n".join(table) + "\n" + _END + after


def golden(name: str) -> str:
    """All that a profile renders, in one text."""
    return "".join(f"# {path}\n{text}---\n" for path, text in render(profile(name)).items())


def derived() -> Mapping[Path, str]:
    """The text of each file that follows from others. What is rendered is so with what the chart is now."""
    return {
        CHART / "files" / "dashboard.json": dashboard(),
        CHART / "files" / "resources.yaml": (POLICIES / "resources.yaml").read_text(),
        CHART / "values.schema.json": values_schema(),
        CHART / "README.md": readme(),
        **{GOLDEN / f"{name}.yaml": golden(name) for name in PROFILES},
    }


def main() -> None:
    """Write all of them: twice, as what is rendered follows from what is written."""
    for _ in range(2):
        chart.cache_clear()
        for path, text in derived().items():
            path.write_text(text)


if __name__ == "__main__":
    main()
