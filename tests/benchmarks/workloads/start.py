"""Cold start: from the command to the first answer, and what `--version` takes."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from tests.benchmarks import openloop
from tests.benchmarks.figures import Goal, Result, rounded
from tests.benchmarks.ground import Ground, Scale, asking
from tests.benchmarks.processes import own_environ


def run(ground: Ground, scale: Scale) -> Result:
    """The files are in the system's memory, as they are after the first time."""
    ground.upstream.tell()
    count = 3 if scale.quick else 10
    question = asking(ground.token())
    first = [first_answer_s(ground, question) for _ in range(count)]
    version = [version_s() for _ in range(count)]
    rows = {
        "first answer": {"median s": rounded(median(first)), "most s": rounded(max(first))},
        "--version": {"median s": rounded(median(version)), "most s": rounded(max(version))},
    }
    goals = [
        Goal("first answer, in s", "≤", 1.5, rounded(median(first))),
        Goal("--version, in s", "≤", 0.3, rounded(median(version))),
    ]
    return Result("Cold start", rows, goals)


def first_answer_s(ground: Ground, question: bytes) -> float:
    """How long it takes until somebody has been answered."""
    began = time.perf_counter()
    with ground.gateway() as server:
        openloop.raw(server.port, [question])
        return time.perf_counter() - began


def version_s() -> float:
    """How long `--version` takes."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "gateway", "--version"]
    subprocess.run(command, check=True, capture_output=True, env=own_environ())  # noqa: S603 - our own command
    return time.perf_counter() - began
