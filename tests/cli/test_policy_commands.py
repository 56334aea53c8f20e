"""`policy test` and `policy diff`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.demo.stage import set_stage, shipped_policies

HERE = Path(__file__).parent


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["policy", *(str(argument) for argument in arguments)])


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(shipped_policies(), folder / "policies"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def stage(folder: Path) -> Path:
    return set_stage(
        folder,
        listen="127.0.0.1:0",
        admin_listen="127.0.0.1:0",
        public_url="http://127.0.0.1:8080",
        upstream_url="http://127.0.0.1:9100",
        app_key="key",
    ).config


# -- policy test -------------------------------------------------------------------------------------------


def test_the_policies_we_ship_pass_strictly(tmp_path: Path) -> None:
    for source in (("--policies", shipped_policies()), ("--config", stage(tmp_path))):
        result = run("test", *source, "--strict")
        assert result.exit_code == 0, result.stdout
        assert re.fullmatch(r"ok: [0-9]+ tests\n", result.stdout)


def test_what_is_not_as_expected_is_told_with_its_place(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    edit(folder / "clients" / "partner.yaml", "    deny: [exitSurvey]\n", "")
    result = run("test", "--policies", folder)
    assert result.exit_code == 1
    *failures, end = result.stdout.splitlines()
    assert len(failures) == 2
    assert re.fullmatch(
        rf"{folder}/tests/partner\.yaml:\d+: partner reads no survey: "
        r"expected action-denied by partner/deny/exitSurvey, got allow by partner/allow/chat:read",
        failures[0],
    )
    assert re.fullmatch(r"failed: 2 of [0-9]+ tests", end)


def test_settings_say_which_accounts_there_are(tmp_path: Path) -> None:
    config = stage(tmp_path)
    edit(tmp_path / "policies" / "tests" / "partner.yaml", "/account/123/", "/account/321/")
    assert run("test", "--policies", tmp_path / "policies").exit_code == 0
    result = run("test", "--config", config)
    assert result.exit_code == 1
    first = result.stdout.splitlines()[0]
    assert first.startswith("policies/tests/partner.yaml:")
    assert first.endswith("expected allow by partner/allow/chat:read, got unknown-resource")


def test_a_rule_that_no_test_meets_is_a_warning(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    edit(folder / "clients" / "partner.yaml", "deny: [exitSurvey]", "deny: [exitSurvey, event]")
    warning = f"{folder}/tests: warning: partner/deny/event: expected a test that meets it, got none"
    lax, strict = run("test", "--policies", folder), run("test", "--policies", folder, "--strict")
    assert (lax.exit_code, strict.exit_code) == (0, 1)
    assert lax.stdout.splitlines()[0] == strict.stdout.splitlines()[0] == warning
    assert lax.stdout.splitlines()[1].startswith("ok: ")
    assert strict.stdout.splitlines()[1] == "failed: 1 warning"


def test_mistakes_in_policies_and_tests_are_told(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    edit(folder / "tests" / "bff.yaml", "outcome: allow,", "outcome: allowed,")
    result = run("test", "--policies", folder)
    assert result.exit_code == 1
    assert "bff.outcome" not in result.stdout
    assert all(".expect.outcome: expected one of allow, " in line for line in result.stdout.splitlines())
    edit(folder / "clients" / "bff.yaml", "priority: high", "priority: highest")
    (line,) = run("test", "--policies", folder).stdout.splitlines()
    assert ": clients.bff.priority: expected one of " in line


def test_mistakes_in_the_settings_are_told(tmp_path: Path) -> None:
    config = stage(tmp_path)
    edit(config, "audience:", "audeince:")
    result = run("test", "--config", config)
    assert result.exit_code == 1
    assert "issuers.0.audeince: expected audience, got audeince" in result.stdout


@pytest.mark.parametrize("both", [True, False])
def test_policies_come_from_one_place(tmp_path: Path, both: bool) -> None:
    source = ("--policies", tmp_path, "--config", tmp_path) if both else ()
    result = run("test", *source)
    assert result.exit_code == 2
    assert f"expected either --config or --policies, got {'both' if both else 'neither'}" in re.sub(
        r"[\s│]+", " ", result.stderr
    )


# -- policy diff -------------------------------------------------------------------------------------------


def test_no_changes(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    edit(
        folder / "clients" / "partner.yaml",
        "    # Where the upstream's budget is short, others go first.\n",
        "",
    )
    result = run("diff", shipped_policies(), folder, "--exit-code")
    assert (result.exit_code, result.stdout) == (0, "no changes\n")


def test_changes_have_a_code_of_their_own_if_asked_for(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    edit(folder / "clients" / "internal.yaml", "allow: [account:read, chat:read]", "allow: [chat:read]")
    told = run("diff", shipped_policies(), folder)
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    denied = "allow by internal/allow/account:read, now action-denied by internal/default-deny"
    assert f"client internal: GET availability: {denied}" in lines
    assert lines[-1] == "client internal: allow: account:read, chat:read, now chat:read"
    assert run("diff", shipped_policies(), folder, "--exit-code").exit_code == 3
    assert run("diff", folder, folder, "--exit-code").exit_code == 0
    found = json.loads(run("diff", shipped_policies(), folder, "--json").stdout)
    assert list(found) == ["added", "removed", "turned", "altered"]
    assert len(found["turned"]) == len(lines) - 1
    assert found["altered"][0]["after"] == "chat:read"


def test_mistakes_on_either_side_are_told(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    edit(folder / "clients" / "bff.yaml", "priority: high", "priority: highest")
    for sides in ((folder, shipped_policies()), (shipped_policies(), folder)):
        result = run("diff", *sides, "--exit-code")
        assert result.exit_code == 1
        assert result.stdout.startswith(f"{folder}/clients/bff.yaml:")
