"""docs/configuration.md names every setting and key, with its default and bounds, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel, PlainValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from gateway.config.load import load
from gateway.config.policies import PATTERNS, ResourceRow
from gateway.config.settings import AT_START, Settings

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
SECTIONS: Mapping[str, type[BaseModel]] = {
    "gateway.yaml": Settings,
    "policies/resources.yaml": ResourceRow,
}


def rows(section: str, columns: int) -> dict[str, str]:
    text = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [
        line for line in text.splitlines() if re.match(r"\| `", line) and line.count(" | ") == columns - 1
    ]
    return {line.split("`")[1]: line for line in lines}


def leaves(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        inner = model_in(field.annotation)
        if inner is None:
            yield before + name, field
        else:
            yield from leaves(inner, f"{before}{name}{AROUND.get(get_origin(field.annotation), '')}.")


def groups(model: type[BaseModel]) -> Iterator[str]:
    """Maps that may be left out, and with them what is required in them."""
    return (name for name, field in model.model_fields.items() if field.default is None)


AROUND: Mapping[Any, str] = {Mapping: ".<id>", tuple: "[]"}


def model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part))), None)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_documented_and_no_other(section: str) -> None:
    assert list(rows(section, 4)) == [name for name, _ in leaves(SECTIONS[section])]


@pytest.mark.parametrize(
    ("section", "name", "field"),
    [(section, name, field) for section, model in SECTIONS.items() for name, field in leaves(model)],
)
def test_the_default_is_documented(section: str, name: str, field: FieldInfo) -> None:
    default = rows(section, 4)[name].split(" | ")[1]
    if field.is_required():
        group = name.partition(".")[0]
        assert default == (f"required with `{group}`" if group in groups(SECTIONS[section]) else "required")
    elif field.default is None:
        assert "`" not in default or name == "coalesce"
    else:
        assert str(yaml.safe_load(default.strip("`"))) == str(plain(field.default))


def plain(value: object) -> object:
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return getattr(value, "value", value)


@pytest.mark.parametrize(
    ("section", "name", "field"),
    [
        (section, name, field)
        for section, model in SECTIONS.items()
        for name, field in leaves(model)
        if field.annotation is int
    ],
)
def test_the_bounds_are_documented(section: str, name: str, field: FieldInfo) -> None:
    (validator,) = (part for part in field.metadata if isinstance(part, PlainValidator))
    with pytest.raises(PydanticCustomError) as refused:
        validator.func(None)  # type: ignore[call-arg]  # the validator of a whole number takes its value only
    bounds = str(refused.value).removeprefix("a whole number from ")
    assert bounds in rows(section, 4)[name].split(" | ")[2]


def test_what_takes_a_restart_is_marked() -> None:
    marked = {name for name, row in rows("gateway.yaml", 4).items() if row.endswith("**(restart)** |")}
    inside = [
        {name for name, _ in leaves(Settings) if name == start or name.startswith(f"{start}.")}
        for start in AT_START
    ]
    assert all(inside)
    assert marked == set().union(*inside)


def test_the_patterns_are_documented() -> None:
    assert list(rows("policies/resources.yaml", 2)) == list(PATTERNS)


def test_the_smallest_file_is_a_good_one(tmp_path: Path) -> None:
    good = Path(__file__).parent / "good"
    (tmp_path / "gateway.yaml").write_text(TEXT.split("```yaml\n")[1].split("```")[0])
    for name in ("app-key", "jwks.json"):
        (tmp_path / name).symlink_to(good / name)
    (tmp_path / "policies").symlink_to(good.parents[2] / "policies")
    assert load(tmp_path / "gateway.yaml", {}).mistakes == ()
