"""`--version`, `keys`, `token` and `check`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jwt
import pytest
from typer.testing import CliRunner, Result

from gateway import __version__
from gateway.cli import app
from gateway.demo.stage import set_stage
from gateway.identity.development import new_key

BAD = Path(__file__).parents[1] / "config" / "bad"


def run(*arguments: object, said: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=said)


def mint(key: Path, *more: object) -> Result:
    return run("token", "mint", "--key", key, "--issuer", "https://i.example", "--subject", "bff", *more)


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"chat-gateway {__version__}\n")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_from_a_new_key_verifies(tmp_path: Path, algorithm: str) -> None:
    made = run("keys", "new", "--folder", tmp_path / "deep" / "er", "--algorithm", algorithm)
    private, jwks = (Path(line) for line in made.stdout.splitlines())
    token = mint(private, "--algorithm", algorithm, "--lifetime", "60", "--claim", "n=3", "--claim", "x=y z")
    assert (made.exit_code, token.exit_code) == (0, 0)
    key = jwt.PyJWKSet.from_dict(json.loads(jwks.read_text())).keys[0]
    claims = jwt.decode(token.stdout.strip(), key, audience="chat-gateway", issuer="https://i.example")
    assert (claims["sub"], claims["n"], claims["x"]) == ("bff", 3, "y z")
    assert claims["exp"] - claims["iat"] == 60


def test_a_token_from_a_secret(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 31 + b"t\n")
    token = mint(secret, "--algorithm", "HS256", "--audience", "a")
    assert jwt.decode(token.stdout.strip(), b"s" * 31 + b"t", algorithms=["HS256"], audience="a")


def test_keys_are_not_overwritten(tmp_path: Path) -> None:
    run("keys", "new", "--folder", tmp_path, "--algorithm", "EdDSA")
    before = (tmp_path / "private.pem").read_bytes()
    again = run("keys", "new", "--folder", tmp_path, "--algorithm", "EdDSA")
    assert again.exit_code == 1
    assert again.stderr == f"{tmp_path / 'private.pem'}: expected no such file, got one\n"
    assert (tmp_path / "private.pem").read_bytes() == before


def test_mistakes_in_minting_are_sentences(tmp_path: Path) -> None:
    key = tmp_path / "private.pem"
    assert mint(key).stderr == f"{key}: expected a readable file, got: No such file or directory\n"
    key.write_text("nothing")
    assert mint(key).stderr.startswith("key: expected a private key in PEM")
    key.write_bytes(new_key("EdDSA")[0])
    wrong_kind = mint(key, "--algorithm", "RS256").stderr
    assert wrong_kind == "key: expected an RSA key, as the algorithm is RS256, got an Ed25519 key\n"
    wrong_claim = mint(key, "--algorithm", "EdDSA", "--claim", "name")
    assert wrong_claim.stderr == "claim: expected name=value, got 'name'\n"
    assert wrong_claim.exit_code == 1
    assert run("keys", "new", "--folder", tmp_path, "--algorithm", "none").exit_code == 1
    assert run("keys", "new", "--folder", key).exit_code == 1


def test_what_a_token_claims_is_shown(tmp_path: Path) -> None:
    key = tmp_path / "private.pem"
    key.write_bytes(new_key("EdDSA")[0])
    token = mint(key, "--algorithm", "EdDSA").stdout
    for result in (run("token", "inspect", token), run("token", "inspect", "-", said=token)):
        assert result.exit_code == 0
        assert result.stdout.startswith("NOT VERIFIED")
        assert '"sub": "bff"' in result.stdout


def test_what_is_no_token_has_a_fault() -> None:
    result = run("token", "inspect", "nothing")
    assert result.exit_code == 1
    assert "fault: token: expected three parts" in result.stdout


@pytest.mark.parametrize(
    "bad", [BAD / "many-at-once.yaml", Path(__file__).with_name("keys-beside-others.yaml")]
)
def test_check_names_every_mistake_at_once(bad: Path) -> None:
    lines = bad.read_text().splitlines()
    expected = [line.removeprefix("# expect: ") for line in lines if line.startswith("# expect: ")]
    result = run("check", "--config", bad)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == expected
    assert len(expected) > 1


def test_check_sums_up_a_good_configuration(tmp_path: Path) -> None:
    stage = good(tmp_path)
    result = run("check", "--config", stage)
    assert result.exit_code == 0
    assert re.fullmatch(r"ok: 1 account, 1 issuer, 3 clients, [0-9]+ resources\n", result.stdout)


def test_check_counts_shadows_apart(tmp_path: Path) -> None:
    stage = good(tmp_path)
    partner = tmp_path / "policies/clients/partner.yaml"
    shadow = partner.read_text().replace("  partner:", "  tried:\n    mode: shadow")
    (tmp_path / "policies/clients/tried.yaml").write_text(shadow)
    result = run("check", "--config", stage)
    assert re.fullmatch(r"ok: 1 account, 1 issuer, 3 clients, 1 shadow, [0-9]+ resources\n", result.stdout)


def test_check_shows_warnings_of_a_good_configuration(tmp_path: Path) -> None:
    stage = good(tmp_path)
    twin = (
        (tmp_path / "policies/clients/bff.yaml")
        .read_text()
        .replace("  bff:", "  twin:")
        .replace("sub: bff", "email: x")
    )
    (tmp_path / "policies/clients/twin.yaml").write_text(twin)
    result = run("check", "--config", stage)
    assert result.exit_code == 0
    *warnings, ok = result.stdout.splitlines()
    assert warnings
    assert all("warning" in warning for warning in warnings)
    assert ok.startswith("ok: ")


def test_check_looks_at_the_revocations(tmp_path: Path) -> None:
    stage = good(tmp_path)
    (tmp_path / "revocations.jsonl").write_text("{}\n")
    result = run("check", "--config", stage)
    assert result.exit_code == 1
    assert re.fullmatch(
        r"gateway\.yaml:[0-9]+: revocations\.journal: revocations\.jsonl:1: expected one of .*, got none\n",
        result.stdout,
    )


def test_check_looks_at_the_keys(tmp_path: Path) -> None:
    stage = good(tmp_path)
    (tmp_path / "jwks.json").write_text('{"keys": []}')
    result = run("check", "--config", stage)
    assert result.exit_code == 1
    assert re.fullmatch(
        r"gateway\.yaml:[0-9]+: issuers\.0\.jwks: expected 1 to 100 keys, got 0\n", result.stdout
    )


def test_a_wrong_command_line_is_told_from_a_failure() -> None:
    assert run("serve").exit_code == 2
    assert run("demo", "--seconds", "1").exit_code == 2


def good(folder: Path) -> Path:
    return set_stage(
        folder,
        listen="127.0.0.1:0",
        admin_listen="127.0.0.1:0",
        public_url="http://127.0.0.1:8080",
        upstream_url="http://127.0.0.1:9100",
        app_key="key",
    ).config
