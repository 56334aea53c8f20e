"""A gateway that cannot start says why, a line for each reason, and exits with 1: real processes."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import started
from tests.support import staged

GOOD = Path(__file__).parents[1] / "config" / "good"
BAD = Path(__file__).parents[1] / "config" / "bad"
_PR_CAPBSET_DROP = 24
_CAP_NET_BIND_SERVICE = 10


def stage(folder: Path, **settings: Any) -> Path:
    return staged(folder, **settings).config


@contextmanager
def taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def drop_the_right_to_privileged_ports() -> None:
    """Root has it, and loses it with the next command."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_NET_BIND_SERVICE)


def allow_few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))


@dataclass(frozen=True)
class Failure:
    """What is prepared in the folder, and what each line says then."""

    prepare: Callable[[Path, ExitStack], Path]
    says: tuple[str, ...]
    first: Callable[[], object] | None = None


def with_settings(**settings: Any) -> Callable[[Path, ExitStack], Path]:
    return lambda folder, _: stage(folder, **settings)


def with_taken(setting: str) -> Callable[[Path, ExitStack], Path]:
    return lambda folder, stack: stage(folder, **{setting: stack.enter_context(taken_port())})


def with_broken_policies(folder: Path, _: ExitStack) -> Path:
    config = stage(folder)
    for name in ("bff", "partner"):
        file = folder / "policies" / "clients" / f"{name}.yaml"
        file.write_text(file.read_text().replace("allow:", "alow:"))
    return config


def with_torn_journal(folder: Path, _: ExitStack) -> Path:
    (folder / "revocations.jsonl").write_text('{"client": 7}\n')
    return stage(folder)


IN_USE = r"cannot listen on 127\.0\.0\.1:\d+: Address already in use"

FAILURES: dict[str, Failure] = {
    "the clients' port is taken": Failure(with_taken("listen"), (IN_USE,)),
    "the private port is taken": Failure(with_taken("admin_listen"), (IN_USE,)),
    "the port is privileged": Failure(
        with_settings(listen="127.0.0.1:1"),
        (r"cannot listen on 127\.0\.0\.1:1: Permission denied",),
        drop_the_right_to_privileged_ports,
    ),
    "the address is another machine's": Failure(
        with_settings(listen="192.0.2.1:8080"),
        (r"cannot listen on 192\.0\.2\.1:8080: Cannot assign requested address",),
    ),
    "no certificate": Failure(
        with_settings(tls={"certificate_file": "none.pem", "key_file": "none.key"}),
        (r"gateway\.yaml:\d+: tls\.certificate_file: .*", r"gateway\.yaml:\d+: tls\.key_file: .*"),
    ),
    "a certificate without its key": Failure(
        with_settings(tls={"certificate_file": str(GOOD / "server.pem"), "key_file": "private.pem"}),
        (r"gateway\.yaml:\d+: tls\.key_file: expected the key, not encrypted, of certificate_file, .*",),
    ),
    "the journal cannot be written": Failure(
        with_settings(revocations={"journal": "/proc/journal"}),
        (r".*: expected a file that can be written, got: .*",),
    ),
    "the journal is unfit": Failure(
        with_torn_journal, (r"gateway\.yaml:\d+: revocations\.journal: revocations\.jsonl:1: .*",)
    ),
    "policies are broken": Failure(
        with_broken_policies, tuple(r"policies/clients/\w+\.yaml:\d+: .*" for _ in range(4))
    ),
    "many mistakes": Failure(
        lambda *_: BAD / "many-at-once.yaml", (r"many-at-once\.yaml:\d+: \w+.*: expected .*",) * 14
    ),
    "no configuration": Failure(
        lambda folder, _: folder / "none.yaml", (r".*none\.yaml: expected a readable file, got .*",)
    ),
    "too few open files": Failure(
        with_settings(), (r"expected a limit of open files of at least 64, got 30",), allow_few_files
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_why_is_said(tmp_path: Path, name: str) -> None:
    failure = FAILURES[name]
    with ExitStack() as stack:
        config = failure.prepare(tmp_path, stack)
        with started("serve", "--config", str(config), first=failure.first) as process:
            out, err = process.communicate(timeout=15)
    assert (process.returncode, out) == (1, "")
    lines = err.splitlines()
    assert len(lines) == len(failure.says), err
    for line, says in zip(lines, failure.says, strict=True):
        assert re.fullmatch(says, line), line


def close_standard_error() -> None:
    os.close(2)


@contextmanager
def full() -> Iterator[int]:
    with Path("/dev/full").open("w") as stream:
        yield stream.fileno()


@contextmanager
def read_by_nobody() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("nowhere", [full, read_by_nobody])
def test_it_fails_alike_when_nobody_can_be_told(tmp_path: Path, nowhere: Callable[[], Any]) -> None:
    with nowhere() as stderr, started("serve", "--config", str(tmp_path / "none"), stderr=stderr) as process:
        out, _ = process.communicate(timeout=15)
    assert (process.returncode, out) == (1, "")


def test_it_fails_alike_without_standard_error(tmp_path: Path) -> None:
    with started(
        "serve", "--config", str(tmp_path / "none"), stderr=subprocess.DEVNULL, first=close_standard_error
    ) as process:
        out, _ = process.communicate(timeout=15)
    assert (process.returncode, out) == (1, "")
