"""compose.yaml: each thing that it mounts, calls or names is there, and is what it is taken for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

import gateway
from gateway.cli import app
from gateway.config.load import load
from gateway.config.settings import Settings, sealing_key
from gateway.edge.server import GRACE_S
from tests.cli.processes import started
from tests.image.dockerfile import CHECKOUT, DOCKERFILE, read
from tests.shared.servers import redis_server

COMPOSE: Mapping[str, Any] = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())
SERVICES: Mapping[str, Any] = COMPOSE["services"]
EXAMPLE = CHECKOUT / "docs" / "examples" / "compose"
SECRETS = EXAMPLE / "secrets"
DOCUMENTED = (CHECKOUT / "docs" / "image.md").read_text().split("\n## Compose\n")[1]
#: In docker's place: the image's command is the one of this checkout, and knows the mount by its own path.
DOCKER = f"""\
#!/bin/sh
test "$1" = compose && exit
mount="$PWD/secrets:/secrets"
user="$(id -u):$(id -g)"
test "$1 $2 $3 $4 $5 $6 $7" = "run --rm --user $user -v $mount chat-gateway:{gateway.__version__}" || exit 64
shift 7
test "$*" = "keys new --folder /secrets" || exit 64
exec {sys.executable} -m gateway keys new --folder "$PWD/secrets"
"""


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or a file of this checkout in a container."""

    source: Path
    target: str
    mode: str


def mounts(service: Mapping[str, Any]) -> Iterator[Mount]:
    for said in service.get("volumes", ()):
        if said.startswith("./"):
            source, target, mode = said.split(":")
            yield Mount(CHECKOUT / source, target, mode)


def volumes(service: Mapping[str, Any]) -> set[str]:
    """The names of those that are no folders of this checkout."""
    return {said.split(":")[0] for said in service.get("volumes", ()) if not said.startswith((".", "/"))}


def networks(name: str) -> set[str]:
    return set(SERVICES[name]["networks"])


def test_who_is_there() -> None:
    assert set(SERVICES) == {"gateway", "emulator", "valkey", "prometheus", "grafana"}


@pytest.mark.parametrize("name", SERVICES)
def test_each_is_pinned_hardened_and_asked_for_its_health(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", service["image"])
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service)
    if name != "gateway":  # its image has its own
        assert service["healthcheck"]["test"][0] == "CMD"
    assert isinstance(service.get("command", []), list)
    for mount in mounts(service):
        assert mount.mode == "ro"
        assert mount.source.is_file() or any(mount.source.iterdir())


def test_ours_are_the_image_that_is_built_here() -> None:
    for name in ("gateway", "emulator"):
        assert SERVICES[name]["image"] == f"chat-gateway:{gateway.__version__}"
        assert SERVICES[name]["build"] == "."


@pytest.mark.parametrize("kind", ["networks", "volumes", "secrets"])
def test_what_is_declared_is_used_and_nothing_else(kind: str) -> None:
    used = [
        volumes(service) if kind == "volumes" else set(service.get(kind, ())) for service in SERVICES.values()
    ]
    assert set().union(*used) == set(COMPOSE[kind])


def test_what_is_published_is_published_to_this_machine_only() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"gateway": ["127.0.0.1:8080:8080"], "grafana": ["127.0.0.1:3000:3000"]}
    # From an internal network nothing can be published.
    for name in published:
        assert any("internal" not in (COMPOSE["networks"][network] or {}) for network in networks(name))


def test_no_secret_is_written_down() -> None:
    for service in SERVICES.values():
        for variable in service.get("environment", {}):
            assert variable.endswith("__FILE") == ("PASSWORD" in variable)
    assert {Path(said["file"]).parent for said in COMPOSE["secrets"].values()} == {
        Path("docs/examples/compose/secrets")
    }
    assert (EXAMPLE / ".gitignore").read_text() == "/secrets/\n"


# -- the gateway -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of them, made as docs/image.md says."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    here = tmp_path_factory.mktemp("documented")
    (here / "docs/examples/compose").mkdir(parents=True)
    (here / "bin").mkdir()
    (here / "bin" / "docker").write_text(DOCKER)
    (here / "bin" / "docker").chmod(0o755)
    script = DOCUMENTED.split("```sh\n")[1].split("```")[0]
    environ = {"PATH": f"{here / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(CHECKOUT)}
    subprocess.run(["/bin/sh", "-eu", "-c", script], cwd=here, env=environ, check=True)  # noqa: S603 - what is documented
    return here / "docs/examples/compose/secrets"


@pytest.fixture(scope="module")
def configuration(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gateway's configuration with the paths of its container where they are here."""
    root = tmp_path_factory.mktemp("container")
    (root / "etc").mkdir()
    (root / "var/lib/chat-gateway").mkdir(parents=True)
    (root / "run/secrets").mkdir(parents=True)
    for mount in mounts(SERVICES["gateway"]):
        shutil.copytree(mount.source, root / mount.target.lstrip("/"))
    for name in SERVICES["gateway"]["secrets"]:
        source = secrets / Path(COMPOSE["secrets"][name]["file"]).name
        shutil.copy(source, root / "run/secrets" / name)
    path = root / "etc/chat-gateway/gateway.yaml"
    path.write_text(re.sub(r"(?<=: )(?=/(etc|run|var)/)", str(root), path.read_text()))
    return path


@pytest.fixture(scope="module")
def settings(configuration: Path) -> Settings:
    settings = load(configuration, {}).settings
    assert settings is not None
    return settings


def test_the_secrets_are_those_that_are_named_and_who_needs_them_can_read_them(secrets: Path) -> None:
    named = {Path(said["file"]).name for said in COMPOSE["secrets"].values()}
    modes = {path.name: path.stat().st_mode & 0o777 for path in secrets.iterdir()}
    assert modes == dict.fromkeys(named, 0o644) | {"private.pem": 0o600}
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert len(sealing_key(secrets / "encryption-key")) == 32


def test_the_gateway_would_start(configuration: Path) -> None:
    result = CliRunner().invoke(app, ["check", "--config", str(configuration)])
    assert result.output.splitlines()[-1].startswith("ok: 1 account, 1 issuer, 3 clients,")
    said = [line for line in result.output.splitlines()[:-1] if "open files" not in line]
    # What is written there is not said to be a mistake: it is all on one machine.
    assert all("allow_plain_http" in line for line in said), said


def test_it_listens_where_others_call(settings: Settings) -> None:
    (published,) = SERVICES["gateway"]["ports"]
    assert published.endswith(f":{settings.listen.port}")
    assert settings.public_url == f"http://{published.rpartition(':')[0]}"
    (scraped,) = yaml.safe_load((EXAMPLE / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    (found,) = scraped["dns_sd_configs"]
    assert (found["names"], found["type"], found["port"]) == (["gateway"], "A", settings.admin_listen.port)
    assert {settings.listen.host, settings.admin_listen.host} == {"0.0.0.0"}


def test_it_finds_who_it_works_with(settings: Settings) -> None:
    place, upstream = settings.redis_url, urlsplit(settings.accounts["123"].upstream or "")
    assert place is not None
    assert [(address.host, address.port) for address in place.addresses] == [("valkey", 6379)]
    options = SERVICES["emulator"]["command"]
    assert (upstream.hostname, str(upstream.port)) == ("emulator", options[options.index("--port") + 1])
    assert networks("gateway") & networks("valkey")
    assert networks("gateway") & networks("emulator")
    assert networks("gateway") & networks("prometheus")
    assert networks("valkey") & networks("emulator") == set()


def test_what_it_writes_is_in_a_volume(settings: Settings) -> None:
    assert settings.revocations.journal is not None
    folder = str(settings.revocations.journal.parent)
    assert any(folder.endswith(said) for said in SERVICES["gateway"]["volumes"] if ":" not in said)
    _, stages = read(DOCKERFILE.read_text())
    assert folder.endswith(stages[-1].said("RUN")[0].split()[-1])


def test_it_may_end_before_it_is_killed(settings: Settings) -> None:
    grace_s = int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= settings.drain_delay_s + settings.drain_s + GRACE_S


# -- the others --------------------------------------------------------------------------------------------


def test_the_emulator_takes_its_options_and_says_that_it_is_well(tmp_path: Path) -> None:
    name, *options = SERVICES["emulator"]["command"]
    command: Any = get_command(app)
    said = command.commands[name].make_context(name, list(options)).params
    assert (said["host"], said["port"]) == ("0.0.0.0", 9100)
    key = tmp_path / "app-key"
    key.write_text("key\n")
    with started("emulator", "--port", "0", "--app-key-file", str(key)) as process:
        assert process.stdout is not None
        here = process.stdout.readline().split()[5].rstrip(",")
        _, python, *rest = SERVICES["emulator"]["healthcheck"]["test"]
        assert python == "/opt/chat-gateway/bin/python"
        for url, code in ((here, 0), ("http://127.0.0.1:9", 1)):
            words = [word.replace("http://127.0.0.1:9100", url) for word in rest]
            assert words != rest
            asked = subprocess.run([sys.executable, *words], capture_output=True, check=False)  # noqa: S603 - compose.yaml's
            assert asked.returncode == code


def test_valkey_takes_its_options(tmp_path: Path) -> None:
    program, *options = SERVICES["valkey"]["command"]
    assert program == "valkey-server"
    with redis_server(tmp_path, extra_args=options) as server:
        for name, value in (("maxmemory", b"268435456"), ("maxmemory-policy", b"volatile-ttl")):
            assert server.command("CONFIG", "GET", name)[1] == value
        assert server.command(SERVICES["valkey"]["healthcheck"]["test"][-1]) == b"PONG"


def mounted(service: str) -> dict[str, Path]:
    """What of the checkout is where in a service."""
    said = (volume.split(":") for volume in SERVICES[service]["volumes"] if volume.startswith("./"))
    return {there: CHECKOUT / here for here, there, _ in said}


def test_prometheus_knows_the_alerts() -> None:
    (rules,) = yaml.safe_load((EXAMPLE / "prometheus/prometheus.yml").read_text())["rule_files"]
    assert yaml.safe_load(mounted("prometheus")[rules].read_text())["groups"]


def test_grafana_shows_the_dashboard() -> None:
    there = mounted("grafana")
    providers = there["/etc/grafana/provisioning/dashboards"] / "files.yaml"
    (provider,) = yaml.safe_load(providers.read_text())["providers"]
    (shown,) = (path for where, path in there.items() if where.startswith(provider["options"]["path"] + "/"))
    assert json.loads(shown.read_text())["title"] == "chat-gateway"


def test_grafana_asks_prometheus() -> None:
    (source,) = yaml.safe_load((EXAMPLE / "grafana/datasources/prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert networks("grafana") & networks("prometheus")
    password = SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"]
    assert Path(password).name in SERVICES["grafana"]["secrets"]
