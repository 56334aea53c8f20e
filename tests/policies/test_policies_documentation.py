"""docs/policies.md names every key of a client, with its default and bounds, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel, PlainValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from gateway.config.clients import ChatsRow, ClientRow, LimitsRow, RateRow, ViewRow
from gateway.config.policies import load_policies
from gateway.core.policy import ACTIONS, Priority, VisitorIp

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "policies.md").read_text()


def rows(section: str) -> dict[str, list[str]]:
    """The table of a section: its cells, by what stands in the first."""
    text = re.split(r"\n##+ ", TEXT.split(f"# {section}\n")[1])[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return {line.split("`")[1]: line.strip("| ").split(" | ") for line in lines}


PARTS: tuple[type[BaseModel], ...] = (ChatsRow, ViewRow, LimitsRow)


def leaves(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        inner = next((part for part in PARTS if part in get_args(field.annotation)), None)
        if inner is not None:
            yield from leaves(inner, f"{before}{name}.")
        else:
            yield before + name, field


KEYS = [("The keys", *leaf) for leaf in leaves(ClientRow)] + [("limits", *leaf) for leaf in leaves(RateRow)]


def test_every_key_is_documented_and_no_other() -> None:
    documented = [(section, name) for section in ("The keys", "limits") for name in rows(section)]
    assert documented == [(section, name) for section, name, _ in KEYS]


@pytest.mark.parametrize(("section", "name", "field"), KEYS)
def test_the_default_is_documented(section: str, name: str, field: FieldInfo) -> None:
    default = rows(section)[name][1]
    if field.is_required() and not name.startswith("chats."):
        assert default == "required"
    elif isinstance(field.default, str | int):
        assert default == f"`{field.default}`"
    else:
        assert "`" not in default or yaml.safe_load(default.strip("`")) == list(field.default)


@pytest.mark.parametrize(("section", "name", "field"), KEYS)
def test_the_bounds_are_documented(section: str, name: str, field: FieldInfo) -> None:
    validators = [part for part in field.metadata if isinstance(part, PlainValidator)]
    if int not in (field.annotation, *get_args(field.annotation)):
        return
    (validator,) = validators
    with pytest.raises(PydanticCustomError) as refused:
        validator.func(None)  # type: ignore[call-arg]  # the validator of a whole number takes its value only
    assert rows(section)[name][2] == str(refused.value).removeprefix("a whole number from ")


def test_the_words_are_documented() -> None:
    keys = rows("The keys")
    assert keys["mode"][2] == "enforce or shadow"
    assert keys["priority"][2] == "high, normal or low"
    assert {priority.label: priority.weight for priority in Priority} == {"high": 8, "normal": 4, "low": 1}
    assert "8 of high and 4 of normal for 1 of low" in keys["priority"][3]
    assert list(rows("The visitor's address")) == [choice.value for choice in VisitorIp]
    entries = next(iter(rows("allow and deny").values()))[0]
    assert set(re.findall("`(.*?)`", entries)) == set(ACTIONS)


def test_the_example_is_a_good_one(tmp_path: Path) -> None:
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "partner.yaml").write_text(TEXT.split("```yaml\n")[1].split("```")[0])
    (tmp_path / "resources.yaml").symlink_to(ROOT / "policies" / "resources.yaml")
    policies, mistakes = load_policies(
        tmp_path, frozenset({"123"}), frozenset({"https://issuer.example"}), version=1
    )
    assert mistakes == ()
    assert policies is not None
