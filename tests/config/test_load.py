"""The whole way in: files that can't be read, all mistakes at once and in order, and nothing ever raised."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.load import load
from gateway.config.mistakes import Mistake, tidy

HERE = Path(__file__).parent
GOOD = HERE / "good" / "gateway.yaml"
POLICIES = HERE.parents[1] / "policies"

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.yaml", "nowhere.yaml: expected a readable file, got no such file or directory"),
        ("good", "good: expected a readable file, got a folder"),
        ("good/secret/x.yaml", "x.yaml: expected a readable file, got not a directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_mistake(name: str, message: str) -> None:
    loaded = load(HERE / name, {})
    assert [str(mistake) for mistake in loaded.mistakes] == [message]
    assert (loaded.settings, loaded.policies) == (None, None)


def test_settings_and_policies_are_told_of_at_once_and_in_order(tmp_path: Path) -> None:
    shutil.copytree(POLICIES, tmp_path / "policies")
    (tmp_path / "policies" / "resources.yaml").write_text("resources:\n  info:\n    path: chat/{chat}/info\n")
    (tmp_path / "policies" / "clients" / "bff.yaml").write_text(
        'clients:\n  bff:\n    match: {iss: "https://nobody.example"}\n'
        '    accounts: ["9"]\n    allow: [chat:all]\n'
    )
    (tmp_path / "gateway.yaml").write_text(
        'drain_s: 1000\nissuers: [{issuer: "https://issuer.example"}]\n'
        'reload_s: 0\naccounts: {"1": {discover: yes}}\n'
    )
    loaded = load(tmp_path / "gateway.yaml", {"CHAT_GATEWAY_LOG_LEVEL": "loud"})
    assert [f"{mistake.file}:{mistake.line} {mistake.key}" for mistake in loaded.mistakes] == [
        "environment variable CHAT_GATEWAY_LOG_LEVEL:0 log_level",
        "gateway.yaml:1 drain_s",
        "gateway.yaml:1 public_url",
        "gateway.yaml:2 issuers.0.algorithms",
        "gateway.yaml:2 issuers.0.audience",
        "gateway.yaml:3 reload_s",
        "gateway.yaml:4 accounts.1.app_key_file",
        "gateway.yaml:4 accounts.1.discover",
        "policies/clients/bff.yaml:3 clients.bff.match.iss",
        "policies/clients/bff.yaml:4 clients.bff.accounts.0",
        "policies/clients/bff.yaml:5 clients.bff.allow.0",
        "policies/resources.yaml:2 resources.info.methods",
    ]
    assert (loaded.settings, loaded.policies) == (None, None)


def test_bad_policies_leave_good_settings(tmp_path: Path) -> None:
    shutil.copytree(GOOD.parent, tmp_path / "good")
    (tmp_path / "policies" / "clients").mkdir(parents=True)
    loaded = load(tmp_path / "good" / "gateway.yaml", {"CHAT_GATEWAY_POLICIES": "../policies"})
    assert [str(mistake) for mistake in loaded.mistakes] == [
        "../policies/clients: expected a file *.yaml with a client, got none",
        "../policies/resources.yaml: expected a readable file, got no such file or directory",
    ]
    assert loaded.settings is not None
    assert loaded.policies is None


@pytest.mark.parametrize(
    "broken",
    [
        {"accounts": None, "issuers": None},
        {"accounts": ["123"], "issuers": [{"isuer": "https://issuer.example"}]},
        {"accounts": "123", "issuers": []},
    ],
)
def test_policies_are_read_beside_settings_that_do_not_say_what_they_are_about(
    tmp_path: Path, broken: dict[str, object]
) -> None:
    shutil.copytree(POLICIES, tmp_path / "policies")
    (tmp_path / "policies" / "clients" / "bff.yaml").write_text(
        'clients:\n  bff:\n    match: {iss: "https://issuer.example"}\n'
        '    accounts: ["9"]\n    allow: [all]\n'
    )
    (tmp_path / "gateway.yaml").write_text(json.dumps({"public_url": "https://chat.example", **broken}))
    loaded = load(tmp_path / "gateway.yaml", {})
    told = [mistake.key for mistake in loaded.mistakes if mistake.file.startswith("policies/")]
    assert told == ["clients.bff.allow.0"]
    assert {"accounts", "issuers"} <= {mistake.key[:8].strip(".") for mistake in loaded.mistakes}


def test_an_issuer_that_is_right_by_itself_is_handed_out(tmp_path: Path) -> None:
    shutil.copy(GOOD.parent / "jwks.json", tmp_path)
    issuer = {"issuer": "i", "audience": "a", "algorithms": ["RS256"], "jwks": "jwks.json"}
    rows = [{**issuer, "leeway_s": -1}, issuer, "nothing", issuer]
    (tmp_path / "gateway.yaml").write_text(json.dumps({"drain_s": -1, "issuers": rows}))
    loaded = load(tmp_path / "gateway.yaml", {})
    assert loaded.settings is None
    assert [(index, row.jwks) for index, row in loaded.issuers.items()] == [
        (1, tmp_path / "jwks.json"),
        (3, tmp_path / "jwks.json"),
    ]
    assert "issuers.3.issuer" in [mistake.key for mistake in loaded.mistakes]


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, "gateway.yaml:36"),
        (
            {"CHAT_GATEWAY_ISSUERS": '[{"issuer": "i", "audience": "a", "jwks": "jwks.json"}]'},
            "environment variable CHAT_GATEWAY_ISSUERS",
        ),
    ],
)
def test_what_a_setting_leads_to_has_the_place_of_the_setting(environ: dict[str, str], place: str) -> None:
    mistake = load(GOOD, environ).mistake(("issuers", 0, "jwks"), "keys[0]: expected a, got b")
    assert str(mistake) == f"{place}: issuers.0.jwks: keys[0]: expected a, got b"


def test_all_that_is_wrong_with_what_a_setting_leads_to_is_told() -> None:
    one, other = (Mistake("x.yaml", 1, "jwks", sentence=f"keys[{index}]: no") for index in range(2))
    assert tidy([other, one, one]) == (one, other)
    assert tidy([Mistake("x.yaml", 1, "jwks", "a", "b"), Mistake("x.yaml", 1, "jwks", "c", "b")]) == (
        Mistake("x.yaml", 1, "jwks", "a", "b"),
    )


def test_a_warning_leaves_everything(tmp_path: Path) -> None:
    shutil.copytree(POLICIES, tmp_path / "policies")
    twin = (POLICIES / "clients" / "bff.yaml").read_text().replace("  bff:", "  twin:")
    (tmp_path / "policies" / "clients" / "twin.yaml").write_text(twin)
    loaded = load(GOOD, {"CHAT_GATEWAY_POLICIES": str(tmp_path / "policies")})
    assert [mistake.severity for mistake in loaded.mistakes] == ["warning"]
    assert loaded.settings is not None
    assert loaded.policies is not None


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=120))
def test_whatever_the_files_hold_nothing_is_raised(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("random")
    (folder / "policies" / "clients").mkdir(parents=True)
    for name in ("policies/resources.yaml", "policies/clients/client.yaml", "gateway.yaml"):
        (folder / name).write_bytes(content)
    good = json.dumps({**yaml.safe_load(GOOD.read_text()), "policies": str(folder / "policies")})
    (folder / "good.yaml").write_text(good)
    for name in ("gateway.yaml", "good.yaml"):
        loaded = load(folder / name, {})
        assert loaded.policies is None
        assert all(str(mistake).isprintable() for mistake in loaded.mistakes)
        assert loaded.mistakes


def _paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in inner for found in _paths(part, (*path, key)))]


DOCUMENTS = {
    path.name: yaml.safe_load(path.read_text())
    for path in (GOOD, POLICIES / "resources.yaml", POLICIES / "clients" / "bff.yaml")
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(DOCUMENTS)), st.data())
def test_whatever_stands_in_one_place_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    documents = copy.deepcopy(DOCUMENTS)
    documents["gateway.yaml"]["policies"] = "."
    path = data.draw(st.sampled_from(_paths(documents[name])[1:]))
    part = documents[name]
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = data.draw(VALUES)
    (folder / "clients").mkdir()
    for key in GOOD.parent.iterdir():
        shutil.copy(key, folder)
    for file, document in documents.items():
        (folder / ("clients" if file == "bff.yaml" else ".") / file).write_text(
            json.dumps(document, ensure_ascii=False)
        )
    loaded = load(folder / "gateway.yaml", {})
    failed = {mistake.severity for mistake in loaded.mistakes} == {"error"}
    assert failed == (loaded.settings is None or loaded.policies is None)
    assert all(str(mistake).isprintable() for mistake in loaded.mistakes)
