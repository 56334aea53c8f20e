"""The Dockerfile: linted, and what can be told of the image without an engine."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gateway
from gateway.cli import app, health
from gateway.config.settings import Settings
from tests.image.dockerfile import CHECKOUT, DOCKERFILE, Stage, is_exec, read

TEXT = DOCKERFILE.read_text()
ARGUMENTS, STAGES = read(TEXT)
IMAGE = STAGES[-1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
PROGRAM = "/opt/chat-gateway/bin/chat-gateway"
IGNORED = (CHECKOUT / ".dockerignore").read_text().splitlines()


def test_hadolint_has_nothing_to_say_and_is_told_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [str(hadolint), "--no-color", "--failure-threshold", "style", str(DOCKERFILE)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - of our environment
    assert (said.returncode, said.stdout) == (0, "")
    assert "hadolint" not in TEXT


def test_each_stage_begins_with_one_python_of_one_version() -> None:
    assert [stage.name for stage in STAGES] == ["wheel", "installed", None]
    assert {stage.base for stage in STAGES} == {"${PYTHON}"}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", ARGUMENTS["PYTHON"])


# -- what is in it -----------------------------------------------------------------------------------------


def is_ignored(path: str) -> bool:
    """As the builder decides: the last line that fits, to the path or a folder that it is in."""
    parents = [path, *(str(parent) for parent in Path(path).parents)][:-1]
    ignored = False
    for line in IGNORED:
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and any(fits(pattern, parent) for parent in parents):
            ignored = not line.startswith("!")
    return ignored


def fits(pattern: str, path: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(Path(path).name, pattern.removeprefix("**/"))
    return fnmatch.fnmatchcase(path, pattern) and path.count("/") == pattern.count("/")


@pytest.mark.parametrize("source", [source for stage in STAGES for source in stage.copied()])
def test_what_is_copied_is_there_and_gets_to_the_builder(source: str) -> None:
    assert (CHECKOUT / source).exists()
    assert not is_ignored(source)


def test_nothing_gets_to_the_builder_that_is_not_copied() -> None:
    copied = {source for stage in STAGES for source in stage.copied()}
    assert {path.name for path in CHECKOUT.iterdir() if not is_ignored(path.name)} == copied


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", ".env", "Dockerfile", "compose.yaml", "tests/canary.py", ".venv/bin/python"),
        *("docs/examples/compose/secrets/app-key", "gateway/__pycache__/app.pyc", "app-key", "gateway.yaml"),
        *("gateway/core/__pycache__", "requirements.txt.bak"),
    ],
)
def test_what_is_nobodys_business_stays(path: str) -> None:
    assert is_ignored(path)


def test_the_wheel_is_built_of_all_that_it_takes() -> None:
    assert set(STAGES[0].copied()) >= {
        *("pyproject.toml", "gateway", "policies", PROJECT["readme"], *PROJECT["license-files"]),
    }


def installs(stage: Stage) -> list[str]:
    return re.findall(r"pip install ([^&]*)", " && ".join(stage.said("RUN")))


def test_every_package_is_locked_by_its_hashes_and_none_is_built() -> None:
    done = [install for stage in STAGES for install in installs(stage)]
    assert len(done) == 3
    for install in done:
        locked = "--require-hashes" in install and "--only-binary :all:" in install
        assert locked or install.strip().endswith("--no-deps --no-index /dist/*.whl")


def test_the_image_gets_the_lock_of_the_extras_and_nothing_of_the_builders() -> None:
    assert installs(IMAGE) == []
    assert STAGES[1].copied() == ["requirements-otel.txt"]
    froms = re.findall(r"--from=(\S+) (\S+) (\S+)", "\n".join(IMAGE.said("COPY")))
    assert froms == [("installed", "/opt/chat-gateway", "/opt/chat-gateway")]
    assert "python -m venv --without-pip /opt/chat-gateway" in STAGES[1].said("RUN")


def test_nothing_has_to_be_compiled_where_nothing_can_be_written() -> None:
    compiled = "python -m compileall -q --invalidation-mode unchecked-hash "
    assert compiled + "/opt/chat-gateway/lib" in STAGES[1].said("RUN")[-1]
    assert compiled + "/usr/local/lib/python3.*" in IMAGE.said("RUN")[0]
    assert IMAGE.environ()["PYTHONDONTWRITEBYTECODE"] == "1"


def test_no_secret_and_no_address_is_in_it() -> None:
    names = [*ARGUMENTS, *(name for stage in STAGES for name in stage.environ()), *IMAGE.said("ARG")]
    assert not [name for name in names if re.search("(?i)key|secret|password|token|index|url", name)]
    assert "://" not in TEXT


# -- how it runs -------------------------------------------------------------------------------------------


def test_it_runs_as_a_number_that_is_not_root_and_owns_what_it_writes() -> None:
    assert IMAGE.said("USER") == ["10001:10001"]
    assert "install -d -o 10001 -g 10001 -m 0700 /var/lib/chat-gateway" in IMAGE.said("RUN")[0]
    verbs = [verb for verb, _ in IMAGE.instructions]
    assert "RUN" not in verbs[verbs.index("USER") :]


def test_it_needs_no_shell() -> None:
    (check,) = IMAGE.said("HEALTHCHECK")
    commands = [*IMAGE.said("ENTRYPOINT"), *IMAGE.said("CMD"), check.split(" CMD ")[1]]
    assert len(commands) == 3
    assert all(map(is_exec, commands))
    assert IMAGE.said("STOPSIGNAL") == ["SIGTERM"]


def test_what_it_calls_exists() -> None:
    (entry,), (command,) = IMAGE.said("ENTRYPOINT"), IMAGE.said("CMD")
    (check,) = IMAGE.said("HEALTHCHECK")
    program, *asked = json.loads(check.split(" CMD ")[1])
    assert json.loads(entry) == [program] == [PROGRAM]
    assert asked == ["healthcheck"]
    assert json.loads(command) == ["serve", "--config", "gateway.yaml"]
    for words in (asked, json.loads(command)):
        assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0
    assert (IMAGE.said("WORKDIR"), PROJECT["scripts"]) == (
        ["/etc/chat-gateway"],
        {"chat-gateway": "gateway.cli:main"},
    )


def test_the_engine_waits_longer_than_the_healthcheck() -> None:
    (check,) = IMAGE.said("HEALTHCHECK")
    (timeout_s,) = re.findall(r"--timeout=(\d+)s", check)
    assert int(timeout_s) >= 2 * health.DEADLINE_S


def test_it_says_what_it_is() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', IMAGE.said("LABEL")[0]))
    assert labels == {
        "title": PROJECT["name"],
        "description": PROJECT["description"],
        "licenses": PROJECT["license"],
        "version": "${VERSION}",
        "revision": "${REVISION}",
    }
    assert IMAGE.said("ARG") == [f"VERSION={gateway.__version__}", "REVISION=unknown"]


def test_it_exposes_the_usual_ports() -> None:
    listen, admin_listen = (Settings.model_fields[name].default for name in ("listen", "admin_listen"))
    assert IMAGE.said("EXPOSE") == [f"{listen.port} {admin_listen.rpartition(':')[2]}"]


def test_its_arguments_are_documented() -> None:
    text = (CHECKOUT / "docs" / "image.md").read_text()
    documented = dict(re.findall(r"^\| `([A-Z]+)` \| `([^`]+)` \|", text, re.MULTILINE))
    assert documented == {**ARGUMENTS} | dict(said.split("=") for said in IMAGE.said("ARG"))
