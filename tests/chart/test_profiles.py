"""What each profile renders: valid, restricted, readable in one way only, and good for the gateway."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped] # it has no types
import pytest
import yaml
from helm_python import lint
from kubernetes_validate import utils

from gateway import __version__
from gateway.configuration import Configuration, configure
from tests.chart.derive import derived
from tests.chart.mounting import mount
from tests.chart.rendering import (
    CHART,
    GOLDEN,
    PROFILES,
    Json,
    Strict,
    Values,
    chart,
    merged,
    objects,
    of_kind,
    pods,
    profile,
    render,
)

# The definitions are megabytes of JSON, and it reads them anew for each object.
utils.schema_contents = functools.cache(utils.schema_contents)

#: The oldest that the chart takes, and the newest that is known.
VERSIONS = ("1.30", utils.latest_version())

#: Everything that the profiles leave out, at once.
EVERYTHING: Values = merged(
    profile("partner-edge"),
    {
        "image": {"digest": "sha256:" + "a" * 64, "pullSecrets": [{"name": "registry"}]},
        "config": {
            "public_url": "https://partners.chat.example:8443/gateway/",
            "tls": {"certificate_file": "files/tls.crt", "key_file": "files/tls.key"},
            "admin_tls": {"certificate_file": "files/tls.crt", "key_file": "files/tls.key"},
            "admin": {"open_metrics": False},
        },
        "files": {
            "tls.crt": {"secret": "chat-tls", "key": "tls.crt"},
            "tls.key": {"secret": "chat-tls", "key": "tls.key"},
        },
        "policies": {"resources.yaml": (CHART / "files" / "resources.yaml").read_text()},
        "replicas": 1,
        "revocations": {"journal": "claim", "claim": "chat-gateway-journal"},
        "address": "::",
        "service": {
            "type": "LoadBalancer",
            "annotations": {"balancer.example/name": "chat"},
            "externalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": ["203.0.113.0/24"],
        },
        "ingress": {
            "enabled": True,
            "className": "edge",
            "annotations": {"controller.example/backend-protocol": "HTTPS"},
            "tlsSecret": "partners-tls",
        },
        "httpRoute": {"annotations": {"team": "chat"}},
        "traces": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.watch:4318"},
        "monitoring": {
            "labels": {"release": "prometheus"},
            "serviceMonitor": {
                "enabled": True,
                "serverName": "partners.chat.example",
                "ca": {"configMap": "internal-ca"},
            },
            "rules": {"enabled": True, "docsUrl": "https://docs.example/chat-gateway/"},
            "dashboard": {"enabled": True},
        },
        "networkPolicy": {
            "issuers": {
                "to": [{"ipBlock": {"cidr": "10.9.0.0/16", "except": ["10.9.1.0/24"]}}],
                "ports": [8443],
            }
        },
        "serviceAccount": {"annotations": {"team": "chat"}},
        "labels": {"team": "chat"},
        "podAnnotations": {"team": "chat"},
        "podLabels": {"tier": "edge"},
        "nodeSelector": {"pool": "edge"},
        "tolerations": [{"key": "pool", "operator": "Equal", "value": "edge", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "edge",
    },
)
#: As little as can be: no object that may be left out.
NOTHING: Values = merged(
    profile("minimal"),
    {
        "revocations": {"journal": "none"},
        "disruption": {"enabled": False},
        "spread": {"zones": "none", "nodes": "none"},
        "preStopSeconds": 0,
        "serviceAccount": {"create": False},
    },
)
ALL: Mapping[str, Values] = {
    **{name: profile(name) for name in PROFILES},
    "all": EVERYTHING,
    "least": NOTHING,
}
RENDERED = pytest.mark.parametrize("values", ALL.values(), ids=ALL)


def test_the_profiles_are_these() -> None:
    assert PROFILES == ("ha-valkey", "minimal", "partner-edge")
    assert chart().metadata["appVersion"] == __version__


@pytest.mark.parametrize("path", derived(), ids=lambda path: str(path.relative_to(CHART.parents[1])))
def test_what_follows_from_others_is_up_to_date(path: Path) -> None:
    assert path.read_text() == derived()[path], "see what changed: python -m tests.chart.derive"


def test_there_is_no_other_golden_file() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(PROFILES)


@RENDERED
def test_lint_has_nothing_against_it(values: Values) -> None:
    report = lint(CHART, dict(values), strict=True, namespace="chat", kube_version="v1.30.0")
    assert report["errors"] == []
    # "icon is recommended": there is none.
    assert [said["error"] for said in report["messages"] if said["severity"] > 1] == []


# -- valid -------------------------------------------------------------------------------------------------

_NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"}


def closed(required: str, **properties: object) -> Json:
    """An object with these properties and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def many(items: object) -> Json:
    return {"type": "array", "items": items, "minItems": 1}


PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
#: Of https://gateway-api.sigs.k8s.io/reference/spec/ (v1), what the chart makes use of.
HTTP_ROUTE = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "gateway.networking.k8s.io/v1"},
    kind={"const": "HTTPRoute"},
    metadata=closed("name labels", name=_NAME, labels={"type": "object"}, annotations={"type": "object"}),
    spec=closed(
        "parentRefs hostnames rules",
        parentRefs=many(closed("name", name=_NAME, namespace=_NAME, sectionName=_NAME, port=PORT)),
        hostnames=many(_NAME),
        rules=many(
            closed(
                "matches backendRefs",
                matches=many(
                    closed(
                        "path",
                        path=closed(
                            "type value",
                            type={"const": "PathPrefix"},
                            value={"type": "string", "pattern": "^/[^?#]*$"},
                        ),
                    )
                ),
                backendRefs=many(closed("name port", name=_NAME, port=PORT)),
            )
        ),
    ),
)


_METADATA = closed("name labels", name=_NAME, labels={"type": "object"})
_DURATION = {"type": "string", "pattern": "^[0-9]+[smh]$"}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_OF_A_KEY = closed("name key", name=_NAME, key={"type": "string"})
#: Of https://prometheus-operator.dev/docs/api-reference/api/, what the chart makes use of.
SERVICE_MONITOR = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "ServiceMonitor"},
    metadata=_METADATA,
    spec=closed(
        "selector endpoints",
        selector=closed("matchLabels", matchLabels=_TEXTS),
        endpoints=many(
            closed(
                "port path interval scheme",
                port=_NAME,
                path={"const": "/metrics"},
                interval=_DURATION,
                scheme={"enum": ["http", "https"]},
                tlsConfig=closed(
                    "serverName",
                    serverName={"type": "string"},
                    ca=closed("configMap", configMap=_OF_A_KEY),
                ),
                authorization=closed("credentials", credentials=_OF_A_KEY),
            )
        ),
    ),
)
PROMETHEUS_RULE = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PrometheusRule"},
    metadata=_METADATA,
    spec=closed(
        "groups",
        groups=many(
            closed(
                "name rules",
                name={"type": "string"},
                rules=many(
                    closed(
                        "alert expr labels annotations",
                        alert={"type": "string", "pattern": "^ChatGateway[A-Za-z]+$"},
                        expr={"type": "string"},
                        labels=_TEXTS,
                        annotations=_TEXTS,
                        **{"for": _DURATION},
                    )
                ),
            )
        ),
    ),
)
#: Kinds that Kubernetes itself does not know.
OURS = {"HTTPRoute": HTTP_ROUTE, "PrometheusRule": PROMETHEUS_RULE, "ServiceMonitor": SERVICE_MONITOR}


def validate(found: Json, version: str) -> None:
    """Raises for anything that Kubernetes would not take, kinds that nobody here knows among it."""
    if found["kind"] in OURS:
        jsonschema.validate(found, OURS[found["kind"]])
    else:
        kubernetes_validate.validate(found, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@RENDERED
def test_kubernetes_would_take_it(values: Values, version: str) -> None:
    for found in objects(values):
        validate(found, version)


@pytest.mark.parametrize(
    "found",
    [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "date": {}},
        {"apiVersion": "example.com/v1", "kind": "Unknown", "metadata": {"name": "a"}},
        {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a"}},
        {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {"name": "a"}},
        {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "a"}},
    ],
)
def test_the_check_sees_what_kubernetes_would_refuse(found: Json) -> None:
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.SchemaNotFoundError)):
        validate(found, VERSIONS[-1])


def nodes(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Everything in a document, with its path."""
    yield path, value
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from nodes(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from nodes(inner, f"{path}/{index}")


@RENDERED
def test_nothing_is_null(values: Values) -> None:
    assert [path for found in objects(values) for path, value in nodes(found) if value is None] == []


def test_a_doubled_key_would_be_seen() -> None:
    with pytest.raises(yaml.YAMLError, match="doubled: a"):
        yaml.load("b: {a: 1, a: 2}", Loader=Strict)  # noqa: S506 - a safe one


@pytest.mark.parametrize(
    ("release", "over"),
    [("r" * 53, {}), ("chat-gateway", {"nameOverride": "n" * 50}), ("r", {"fullnameOverride": "f" * 50})],
)
def test_no_name_or_label_is_too_long(release: str, over: Values) -> None:
    found = objects(merged(EVERYTHING, over), name=release)
    names = [each["metadata"]["name"] for each in found]
    labels = [label for each in found for label in each["metadata"]["labels"].values()]
    assert [name for name in (*names, *labels) if len(name) > 63 or name[-1] in "-._"] == []
    assert len({(each["kind"], each["metadata"]["name"]) for each in found}) == len(found)


@RENDERED
def test_selectors_find_the_pods_of_the_gateway_and_no_others(values: Values) -> None:
    found = objects(values)
    gateway = of_kind(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    test = of_kind(found, "Pod")["metadata"]["labels"]
    monitors = [each for each in found if each["kind"] == "ServiceMonitor"]
    selectors = [
        each["spec"]["selector"]
        for each in found
        if "selector" in each.get("spec", {}) and each not in monitors
    ]
    selectors += [each["spec"]["podSelector"] for each in found if each["kind"] == "NetworkPolicy"]
    assert len(selectors) >= 3
    for selector in selectors:
        wanted = selector.get("matchLabels", selector).items()
        assert wanted <= gateway.items()
        assert not wanted <= test.items()
    for each in monitors:
        wanted = each["spec"]["selector"]["matchLabels"].items()
        services = [one["metadata"] for one in found if one["kind"] == "Service"]
        chosen = [one["name"] for one in services if wanted <= one["labels"].items()]
        assert chosen == [of_kind(found, "Service", "-private")["metadata"]["name"]]


# -- restricted --------------------------------------------------------------------------------------------


def containers(spec: Json) -> list[Json]:
    return [*spec.get("initContainers", ()), *spec["containers"], *spec.get("ephemeralContainers", ())]


def secured(spec: Json, name: str) -> list[object]:
    """What each container runs with: its own word, or the pod's."""
    common = spec.get("securityContext", {}).get(name)
    return [each.get("securityContext", {}).get(name, common) for each in containers(spec)]


VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}

#: https://kubernetes.io/docs/concepts/security/pod-security-standards/, baseline and restricted, and what the
#: gateway adds to it; each with something that breaks it.
RESTRICTED: Mapping[str, tuple[Callable[[Json], bool], Callable[[Json], object]]] = {
    "host namespaces": (
        lambda spec: not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(),
        lambda spec: spec.update(hostNetwork=True),
    ),
    "host ports": (
        lambda spec: all(
            "hostPort" not in port for each in containers(spec) for port in each.get("ports", ())
        ),
        lambda spec: spec["containers"][0].update(ports=[{"containerPort": 1, "hostPort": 1}]),
    ),
    "privileged": (
        lambda spec: not any(secured(spec, "privileged")),
        lambda spec: spec["containers"][0]["securityContext"].update(privileged=True),
    ),
    "volumes": (
        lambda spec: all(volume.keys() - {"name"} <= VOLUMES for volume in spec["volumes"]),
        lambda spec: spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    ),
    "escalation": (
        lambda spec: set(secured(spec, "allowPrivilegeEscalation")) == {False},
        lambda spec: spec["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
    ),
    "non-root": (
        lambda spec: set(secured(spec, "runAsNonRoot")) == {True},
        lambda spec: spec["securityContext"].pop("runAsNonRoot"),
    ),
    "user": (
        lambda spec: all(secured(spec, "runAsUser")),
        lambda spec: spec["containers"][0]["securityContext"].update(runAsUser=0),
    ),
    "seccomp": (
        lambda spec: all(said == {"type": "RuntimeDefault"} for said in secured(spec, "seccompProfile")),
        lambda spec: spec["securityContext"].pop("seccompProfile"),
    ),
    "capabilities": (
        lambda spec: all(said == {"drop": ["ALL"]} for said in secured(spec, "capabilities")),
        lambda spec: spec["containers"][0]["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
    ),
    "read-only root": (
        lambda spec: set(secured(spec, "readOnlyRootFilesystem")) == {True},
        lambda spec: spec["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
    ),
    "no token of a service account": (
        lambda spec: spec.get("automountServiceAccountToken") is False,
        lambda spec: spec.pop("automountServiceAccountToken"),
    ),
    "no link of a service": (
        lambda spec: spec.get("enableServiceLinks") is False,
        lambda spec: spec.update(enableServiceLinks=True),
    ),
    "bounded memory": (
        lambda spec: all("memory" in each["resources"]["limits"] for each in containers(spec)),
        lambda spec: spec["containers"][0]["resources"].update(limits={}),
    ),
    "no subPath": (
        lambda spec: all(
            "subPath" not in mount for each in containers(spec) for mount in each["volumeMounts"]
        ),
        lambda spec: spec["containers"][0]["volumeMounts"][0].update(subPath="a"),
    ),
    "no shell": (
        lambda spec: all(
            "sh" not in Path(word).name.split()
            for each in containers(spec)
            for word in each.get("command", ())
        ),
        lambda spec: spec["containers"][0].update(command=["/bin/sh", "-c", "sleep 1"]),
    ),
}


@pytest.mark.parametrize("rule", RESTRICTED)
@RENDERED
def test_pods_are_restricted(values: Values, rule: str) -> None:
    holds, breaks = RESTRICTED[rule]
    found = dict(pods(objects(values)))
    assert len(found) == 2
    for spec in found.values():
        assert holds(spec)
        breaks(spec)
        assert not holds(spec)


# -- good --------------------------------------------------------------------------------------------------


def configured(values: Values, tmp_path: Path) -> Configuration:
    """What the gateway makes of what is mounted. Its journal is in another folder here."""
    journal = (
        {}
        if values.get("revocations", {}).get("journal") == "none"
        else {"CHAT_GATEWAY_REVOCATIONS__JOURNAL": str(tmp_path / "journal")}
    )
    mounted = tmp_path / "mounted"
    mount(values, mounted)
    return configure(mounted / "gateway.yaml", journal, starting=True)


@RENDERED
def test_the_gateway_finds_it_good(values: Values, tmp_path: Path) -> None:
    told = configured(values, tmp_path)
    assert told.warnings == ()
    assert (told.settings.listen.port, told.settings.admin_listen.port) == (8080, 8081)
    assert not told.settings.listen.host.startswith("127.")


def test_a_profile_says_what_it_is_for(tmp_path: Path) -> None:
    edge = configured(profile("partner-edge"), tmp_path / "edge")
    assert all(client.limits.exact for client in edge.policies.clients)
    plain = configured(profile("minimal"), tmp_path / "plain")
    assert plain.settings.redis_url is None
    high = configured(profile("ha-valkey"), tmp_path / "high")
    assert high.settings.redis_url is not None
    assert high.settings.redis_url.master == "mymaster"
    for shared in (edge.settings.redis, high.settings.redis):
        assert shared.username == "chat-gateway"
        assert shared.password_file
        assert shared.ca_file
        assert shared.encryption_key_file


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_can_revoke_by_call(name: str) -> None:
    found = objects(profile(name))
    config = yaml.safe_load(of_kind(found, "ConfigMap", "chat-gateway")["data"]["gateway.yaml"])
    spec = of_kind(found, "Deployment")["spec"]["template"]["spec"]
    mounts = {each["mountPath"]: each for each in spec["containers"][0]["volumeMounts"]}
    volumes = {each["name"]: each for each in spec["volumes"]}
    journal = mounts[str(Path(config["revocations"]["journal"]).parent)]
    assert not journal.get("readOnly")
    assert "emptyDir" in volumes[journal["name"]]


def test_notes_warn_of_what_is_easily_overlooked() -> None:
    notes = {name: render(values)["NOTES.txt"] for name, values in ALL.items()}
    alone = render(merged(profile("minimal"), {"replicas": 2}))["NOTES.txt"]
    behind = render(merged(profile("minimal"), {"service": {"type": "LoadBalancer"}}))["NOTES.txt"]
    assert "each replica keeps, limits and revokes for itself" in alone
    assert "forgotten when the pod goes" in notes["minimal"]
    assert "trusted_proxies is empty" in behind
    assert [name for name in ("ha-valkey", "partner-edge", "all") if "NOTE" in notes[name]] == []


# -- monitoring --------------------------------------------------------------------------------------------


def test_prometheus_is_let_in_and_finds_whom_it_asks() -> None:
    monitor = of_kind(objects(EVERYTHING), "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    token = EVERYTHING["files"][EVERYTHING["config"]["admin"]["token_file"].removeprefix("files/")]
    assert endpoint["authorization"]["credentials"] == {"name": token["secret"], "key": token["key"]}
    assert (endpoint["scheme"], endpoint["tlsConfig"]) == (
        "https",
        {
            "serverName": "partners.chat.example",
            "ca": {"configMap": {"name": "internal-ca", "key": "ca.crt"}},
        },
    )
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_rules_are_the_shipped_ones_and_lead_to_their_pages() -> None:
    rule = of_kind(objects(EVERYTHING), "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    (group,) = rule["spec"]["groups"]
    for alert in group["rules"]:
        page = f"https://docs.example/chat-gateway/operations.md#{alert['alert'].lower()}"
        assert alert["annotations"].pop("runbook_url") == page
    assert [group] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
