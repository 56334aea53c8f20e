"""`values.yaml` and its schema: what may be written, how a mistake is told, and what each value does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gateway.config.settings import AT_START, Settings, Upstream
from tests.chart.derive import OWN, rows
from tests.chart.rendering import CHART, Json, Values, at, chart, merged, objects, of_kind, profile, refusal

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
MINIMAL = profile("minimal")
#: All ways to it from outside.
EXPOSED: Values = {
    "ingress": {"enabled": True},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "a"}]},
    "autoscaling": {"enabled": True},
    "networkPolicy": {"enabled": True},
}

WRONG: Mapping[str, Json] = yaml.safe_load((Path(__file__).parent / "wrong.yaml").read_text())


@pytest.mark.parametrize("said", WRONG.values(), ids=WRONG)
def test_a_mistake_is_refused_with_its_place_and_what_is_expected(said: Json) -> None:
    base = profile(said.get("base", "minimal"))
    assert refusal(base) == ""
    assert said["said"] in refusal(merged(base, said["over"]))


def test_all_mistakes_are_told_at_once() -> None:
    said = refusal(merged(MINIMAL, {"replicas": 0, "config": {"drain_s": -1}}))
    assert "/replicas" in said
    assert "/config/drain_s" in said
    said = refusal(merged(MINIMAL, {"httpRoute": {"enabled": True}, "revocations": {"journal": "claim"}}))
    assert "httpRoute.parentRefs" in said
    assert "revocations.claim" in said


# -- the schema --------------------------------------------------------------------------------------------


def parts(node: Any, path: str = "") -> Iterator[tuple[str, Json]]:
    if isinstance(node, dict):
        yield path, node
        for key, inner in node.items():
            yield from parts(inner, f"{path}/{key}")


def test_the_schema_is_one_of_draft_7_and_knows_no_other_names() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    maps = {path: part for path, part in parts(SCHEMA) if part.get("type") == "object"}
    free = {path for path, part in maps.items() if part.get("additionalProperties") is not False}
    assert len(maps) > 40
    assert free == {
        "/properties/global",
        *(
            f"/properties/affinity/properties/{kind}"
            for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")
        ),
        *("/definitions/texts", "/definitions/labels"),
    }


def names(schema: Json) -> Mapping[str, Json]:
    """The values that a part of the schema names, if it names any."""
    return schema.get("properties", {}) if not schema.get("patternProperties") else {}


def leaves(schema: Json, values: object, path: str = "") -> Iterator[tuple[str, bool, bool]]:
    """Each value by its path: whether the schema names it, and whether `values.yaml` does."""
    named = (
        names(schema) if path not in ("config", "affinity", "resources.limits", "resources.requests") else {}
    )
    given = values if isinstance(values, dict) else {}
    for key in {**named, **given}:
        inner = f"{path}.{key}" if path else key
        if key in named and key in given:
            yield from leaves(named[key], given[key], inner)
        elif named:
            yield inner, key in named, key in given


def test_schema_and_values_name_the_same() -> None:
    assert list(leaves(SCHEMA, DEFAULTS)) == [("global", True, False)]
    assert chart().values == DEFAULTS


def test_the_readme_has_a_row_for_each_value_and_none_without_a_meaning_passes() -> None:
    told = {path: default for path, default, _ in rows((CHART / "values.yaml").read_text())}
    assert told["image.repository"] == told["config"] == told["policies"] == "required"
    assert told["preStopSeconds"] == "`2`"
    assert len(told) > 50
    with pytest.raises(ValueError, match=r"values.yaml:3: a.b: expected `# -- ` above, got none"):
        list(rows("a:\n  # just so\n  b: 1\n"))


# -- the gateway's own figures -----------------------------------------------------------------------------

#: Another value than the default of everything in gateway.yaml that is not the chart's.
OTHERS: Mapping[str, object] = {
    "tls": {"certificate_file": "files/app-key", "key_file": "files/app-key"},
    "admin_tls": {"certificate_file": "files/app-key", "key_file": "files/app-key"},
    "admin": {"open_metrics": False},
    "edge": {"max_fields": 50},
    "public_url": "https://other.example",
    "accounts": {"456": {"discover": True, "app_key_file": "files/app-key"}},
    "issuers": [{"issuer": "a", "audience": "b", "algorithms": ["ES256"], "jwks": "files/app-key"}],
    "failed_tokens": {"burst": 1},
    "revocations": {"file": "files/app-key"},
    "trusted_proxies": ["10.0.0.0/8"],
    "discovery": {"url": "https://discovery.example"},
    "link_hosts": ["*.example"],
    "upstream.deadline_ms": 4000,
    "upstream.stale_after_ms": 200,
    "upstream.max_connections": 10,
    "upstream.max_answer_bytes": 1000000,
    "upstream.max_pause_ms": 2000,
    "upstream.ca_file": "files/app-key",
    "upstream.proxy": "http://proxy.example:3128",
    "upstream.refuse_other_session_key": True,
    "budget": {"burst": 10},
    "push": {"max_wait_s": 20},
    "log_one_hit_in": 100,
    "overload": {"lag_ms": 200},
    "cache": {"max_bytes": 134217728},
    "memory": {"tokens_bytes": 134217728},
    "redis_url": "redis://redis.example",
    "redis": {"deadline_ms": 50},
    "short_cut": False,
    "max_body_bytes": 65536,
    "default_representation": "xml",
    "cors": {"max_age_s": 60},
    "reload_s": 5,
    "drain_delay_s": 6,
    "drain_s": 11,
    "log_level": "debug",
}


def pod(values: Values) -> Json:
    template: Json = of_kind(objects(values), "Deployment")["spec"]["template"]
    return template


def test_every_setting_is_tried() -> None:
    upstream = {f"upstream.{name}" for name in Upstream.model_fields}
    assert OTHERS.keys() == {*Settings.model_fields, *upstream} - {"upstream", *OWN}
    assert set(AT_START) <= OTHERS.keys() | set(OWN)


@pytest.mark.parametrize("setting", OTHERS)
def test_pods_are_made_anew_for_what_takes_a_restart_and_for_nothing_else(setting: str) -> None:
    changed = merged(MINIMAL, at("config/" + setting.replace(".", "/"), OTHERS[setting]))
    assert (pod(changed) != pod(MINIMAL)) == (setting in AT_START)


def test_listening_elsewhere_takes_a_restart() -> None:
    assert pod(merged(MINIMAL, {"address": "::"})) != pod(MINIMAL)


@pytest.mark.parametrize(
    ("over", "anew"),
    [
        ({"policies": {"clients/internal.yaml": "clients: {}"}}, False),
        ({"policies": {"clients/other.yaml": "clients: {}"}}, True),
        ({"networkPolicy": {"enabled": True}}, False),
        ({"replicas": 3}, False),
    ],
)
def test_other_changes_that_make_pods_anew(over: Values, anew: bool) -> None:
    assert (pod(merged(MINIMAL, over)) != pod(MINIMAL)) == anew


def test_a_pod_has_the_time_that_the_gateway_takes_to_end() -> None:
    settings = Settings.model_fields
    asked = {"drain_delay_s": 30, "drain_s": 60}
    for config, pause in (({}, 2), (asked, 4), (asked, 0)):
        spec = pod(merged(MINIMAL, {"config": config, "preStopSeconds": pause}))["spec"]
        said = {name: config.get(name, settings[name].default) for name in asked}
        assert spec["terminationGracePeriodSeconds"] == pause + sum(said.values()) + 5
        sleeps = {"preStop": {"sleep": {"seconds": pause}}} if pause else None
        assert spec["containers"][0].get("lifecycle") == sleeps


def test_memory_suffices_for_what_is_kept_by_default() -> None:
    settings = Settings.model_fields
    kept = settings["cache"].default.max_bytes
    kept += settings["memory"].default.tokens_bytes + settings["memory"].default.grants_bytes
    memory = DEFAULTS["resources"]["requests"]["memory"]
    assert int(memory.removesuffix("Mi")) * 2**20 >= kept + 170_000_000


def test_figures_stay_whole_and_words_stay_words() -> None:
    config = {
        "cache": {"max_bytes": 17179869184},
        "issuers": [{"issuer": "yes", "audience": "010", "algorithms": ["ES256"], "jwks": "files/app-key"}],
    }
    text = of_kind(objects(merged(MINIMAL, {"config": config})), "ConfigMap", "chat-gateway")["data"][
        "gateway.yaml"
    ]
    assert "max_bytes: 17179869184\n" in text
    assert re.findall(r"(?:issuer|audience): (.*)", text) == ['"010"', '"yes"']


#: Names that are good in Kubernetes, and that YAML reads as something else.
ODD = ("123", "1e3", "0x1f", "2024-01-01", "true", "null")
#: As good as any, and in no other text.
PLAIN = "a-name-of-its-own"


@pytest.mark.parametrize(
    ("place", "others"),
    [
        ("files/app-key/secret", {}),
        ("files/app-key/configMap", {"files": {"app-key": {"secret": None}}}),
        ("revocations/claim", {"revocations": {"journal": "claim"}, "autoscaling": {"enabled": False}}),
        ("priorityClassName", {}),
        ("ingress/className", {}),
        ("ingress/tlsSecret", {}),
        ("serviceAccount/name", {}),
        ("httpRoute/parentRefs", {}),
        ("image/pullSecrets", {}),
        ("fullnameOverride", {}),
        ("nameOverride", {}),
    ],
)
def test_names_stay_names(place: str, others: Values) -> None:
    base = merged(merged(MINIMAL, EXPOSED), others)

    def rendered(name: str) -> list[Json]:
        named = [{"name": name}] if place.endswith(("Refs", "Secrets")) else name
        return objects(merged(base, at(place, named)))

    plain = json.dumps(rendered(PLAIN))
    assert PLAIN in plain
    for name in ODD:
        # These begin with a letter, as a Service has to.
        if not (place.endswith("Override") and name[0].isdecimal()):
            assert rendered(name) == json.loads(plain.replace(PLAIN, name))


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("https://chat.example", "chat.example", "/"),
        ("https://chat.example/", "chat.example", "/"),
        ("https://chat.example:8443/gateway/", "chat.example", "/gateway"),
        ("https://chat.example/gateway:", "chat.example", "/gateway:"),
    ],
)
def test_host_and_path_are_those_of_the_public_url(url: str, host: str, path: str) -> None:
    found = objects(merged(MINIMAL, {"config": {"public_url": url}, **EXPOSED}))
    (rule,) = of_kind(found, "Ingress")["spec"]["rules"]
    route = of_kind(found, "HTTPRoute")["spec"]
    assert (rule["host"], rule["http"]["paths"][0]["path"]) == (host, path)
    assert (route["hostnames"], route["rules"][0]["matches"][0]["path"]["value"]) == ([host], path)


def test_egress_is_for_those_who_are_named() -> None:
    found = of_kind(objects(merged(MINIMAL, {"networkPolicy": {"enabled": True}})), "NetworkPolicy")["spec"]
    assert found["policyTypes"] == ["Ingress", "Egress"]
    ports = [[port["port"] for port in rule["ports"]] for rule in found["egress"]]
    assert ports == [[53, 53], [443]]
    assert all(rule["to"] for rule in found["egress"])
    assert "from" not in found["ingress"][0]
    assert found["ingress"][1]["from"]
