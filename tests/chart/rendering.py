"""The chart as Helm renders it, and read so strictly that nothing in it can have two meanings."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart, HelmError, values_from_yaml

CHART = Path(__file__).parents[2] / "helm" / "chat-gateway"
GOLDEN = Path(__file__).parent / "golden"
PROFILES = tuple(sorted(path.stem.removeprefix("values-") for path in CHART.glob("values-*.yaml")))
RELEASE = "chat-gateway"

Json = dict[str, Any]
Values = Mapping[str, Any]


class Strict(yaml.CSafeLoader):
    """Refuses a key that is there twice, which others take in silence; 1e3 is a figure, as in Go."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = [key for key in keys if keys.count(key) > 1]
        if doubled:
            raise yaml.constructor.ConstructorError(None, None, f"doubled: {doubled[0]}", node.start_mark)
        return super().construct_mapping(node, deep)


Strict.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[0-9]+([.][0-9]*)?[eE][-+]?[0-9]+$"), list("0123456789")
)


def profile(name: str) -> Json:
    """The values of a profile, as Helm reads them."""
    return values_from_yaml((CHART / f"values-{name}.yaml").read_text())


@cache
def chart() -> Chart:
    return Chart.load(CHART)


def render(values: Values, *, name: str = RELEASE) -> Mapping[str, str]:
    """Each template that has something to say, by its name in `templates/`."""
    return dict(_rendered(chart(), json.dumps(values), name))


def objects(values: Values, *, name: str = RELEASE) -> list[Json]:
    """What would be applied."""
    return deepcopy(_objects(chart(), json.dumps(values), name))


# Helm sees no more of the values than their text, and most tests ask about the same few.
@cache
def _rendered(it: Chart, values: str, name: str) -> Mapping[str, str]:
    found = it.render(json.loads(values), name=name, namespace="chat")
    prefix = f"{it.name}/templates/"
    return {
        path.removeprefix(prefix): text.strip() + "\n" for path, text in sorted(found.items()) if text.strip()
    }


@cache
def _objects(it: Chart, values: str, name: str) -> list[Json]:
    texts = (text for path, text in _rendered(it, values, name).items() if path.endswith(".yaml"))
    return [document for text in texts for document in yaml.load_all(text, Loader=Strict)]


def of_kind(found: list[Json], kind: str, ending: str = "") -> Json:
    """The only object of a kind whose name ends so."""
    (one,) = (each for each in found if each["kind"] == kind and each["metadata"]["name"].endswith(ending))
    return one


def pods(found: list[Json]) -> Iterator[tuple[str, Json]]:
    """What is said of each pod, by the kind and the name of what says it."""
    for each in found:
        if each["kind"] == "Pod":
            yield f"Pod/{each['metadata']['name']}", each["spec"]
        elif "template" in each.get("spec", {}):
            yield f"{each['kind']}/{each['metadata']['name']}", each["spec"]["template"]["spec"]


def refusal(values: Values) -> str:
    """What Helm says of values that it refuses."""
    try:
        render(values)
    except HelmError as error:
        return str(error)
    return ""


def merged(base: Values, over: Values) -> Json:
    """As Helm lays one file of values over another: maps are merged, None takes away, all else replaces."""
    result = dict(base)
    for key, value in over.items():
        beneath = result.get(key)
        if isinstance(value, Mapping):
            result[key] = merged(beneath if isinstance(beneath, Mapping) else {}, value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


def at(path: str, value: object) -> Json:
    """Values with one thing in them, whose path has slashes between its steps."""
    for step in reversed(path.split("/")):
        value = {step: value}
    assert isinstance(value, dict)
    return value
