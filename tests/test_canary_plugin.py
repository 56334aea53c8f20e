"""The canary sings: whatever way out a secret takes, the run fails, and says no more."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import canary

SECRET = "n1ghtingale/7c1e+49b08d5f3a62"
HERE = Path(__file__).parents[1]

#: One way out each, of a text that the test knows as `text`.
WAYS = {
    "printed": "print('so', text)",
    "printed to stderr": "import sys; print(text, file=sys.stderr)",
    "logged": "import logging; logging.getLogger('x').warning('so %s', text)",
    "asserted": "assert text == 'nothing'",
    "raised": "raise ValueError(text)",
    "a reason to skip": "import pytest; pytest.skip(text)",
}
SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "backwards": lambda secret: secret[::-1],
    "hex": lambda secret: secret.encode().hex(),
    "base64": lambda secret: base64.b64encode(b"key=" + secret.encode() + b"&more").decode(),
    "the first of two lines": lambda secret: secret[:16] + "\\n",
    "the second of two lines": lambda secret: secret[-16:],
    "in the middle of two fields": lambda secret: f"a={secret[:13]}, b={secret[13:]}",
}


def run(folder: Path, spelled: str, way: str) -> subprocess.CompletedProcess[str]:
    """A run of one test, with our plugin, in which the secret is watched."""
    test = folder / "test_it.py"
    test.write_text(
        f"from tests import canary\ncanary.watch('the secret', {SECRET!r})\n"
        f"text = {spelled!r}\ndef test():\n    {way}\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(folder / "no.ini"),
        "-p",
        "tests.conftest",
        "--disable-plugin-autoload",
        "-rs",
        str(test),
    ]
    (folder / "no.ini").write_text("[pytest]\n")
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603


@pytest.mark.parametrize("way", WAYS)
def test_a_leak_fails_the_run_and_is_not_repeated(tmp_path: Path, way: str) -> None:
    ran = run(tmp_path, SECRET, WAYS[way])
    assert ran.returncode == 1, ran.stdout
    assert "leaked: the secret" in ran.stdout
    assert SECRET not in ran.stdout + ran.stderr


def test_what_is_no_leak_fails_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, SECRET[:12], WAYS["printed"]).returncode == 0


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_is_seen(monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    monkeypatch.setattr(canary, "WATCHED", {SECRET: "the secret"})
    text = f"before {SPELLINGS[spelling](SECRET)} after".encode()
    assert len([*canary.seen(text)]) == 1
    assert not [*canary.seen(b"before and after")]


def test_of_a_token_the_signature_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "WATCHED", {})
    signature = "c2lnbmF0dXJlLW9mLWEtdG9rZW4tdGhhdC1pcy1sb25n"
    canary.watch("a token", f"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJiZmYifQ.{signature}")
    assert not [*canary.seen(b"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJiZmYifQ.")]
    assert [*canary.seen(signature.encode())] == ["a token (plain, the beginning)"]


def test_an_object_that_shows_it_is_found() -> None:
    @dataclass
    class Loose:
        key: str

    Loose.__module__ = "gateway.loose"
    held = Loose(SECRET)
    assert [*canary.shown_by_objects([SECRET])] == [
        f"{Loose.__qualname__} shows a secret (plain, the beginning)"
    ]
    assert held.key == SECRET
