"""Hypothesis profiles, and the canary.

The ordinary run is the same everywhere, the thorough one looks for more: HYPOTHESIS_PROFILE=thorough. What
a test printed, logged, or says when it fails is searched for what must never leave: a leak fails it.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Generator

import httpx2
import pytest
from hypothesis import HealthCheck, settings

from tests.canary import seen

# Compiled once for all: for the processes that tests are run in, and for the many that tests start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# To read the system's certificates is half of what it takes to make a gateway, and a test makes many.
# Processes do without: nobody whom only the system trusts is asked.
httpx2.create_ssl_context = functools.lru_cache(httpx2.create_ssl_context)
os.environ["SSL_CERT_FILE"] = os.devnull

settings.register_profile(
    "default", max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=3000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


#: What mostly waits, for processes and for seconds, and what is longest: first, so that nothing waits for it.
FIRST = (
    *("tests/wire/test_replica_processes.py", "tests/demo/test_demo.py", "tests/machine/test_machine.py"),
    *("tests/faults/test_show.py", "tests/road/test_short_cut_first.py", "tests/wire/test_replicas.py"),
    *("tests/road/test_short_cut_second.py", "tests/road/test_schedules.py", "tests/wire/test_reload.py"),
    *("tests/wire/test_settings.py", "tests/shared/test_schedules.py", "tests/hostile/test_bytes_first.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: index for index, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(FIRST)))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """All tests are there to stay: the collector need not look through them again, nor so often.

    As `gateway.app.collect_seldom` has it, for those who run no gateway.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    texts = [*report.sections, ("what it says", _said(report))]
    leaks = [f"{what} in {place}" for place, text in texts for what in seen(_bytes(text))]
    if leaks:
        # What leaked is not repeated here.
        kept = [line for line in report.longreprtext.splitlines() if not any(seen(_bytes(line)))]
        report.outcome, report.sections = "failed", []
        report.longrepr = "\n".join([*kept, f"leaked: {', '.join(leaks)}"])
    return report


def _said(report: pytest.TestReport) -> str:
    """What went wrong, but not the frames on the way: tests know the key, and pytest shows what they know."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return report.longreprtext if crash is None else crash.message


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")
