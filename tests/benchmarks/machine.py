"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.benchmarks.peer import which

_PACKAGES = (
    *("chat-gateway", "uvicorn", "uvloop", "httptools", "starlette", "httpx2", "aiohttp"),
    *("pyjwt", "cryptography", "fastapi-proxy-lib", "fastapi", "httpx"),
)
#: How each program is asked, and what its version looks like.
_PROGRAMS = {
    "nginx": ("-v", r"nginx/(\S+)"),
    "haproxy": ("-v", r"version (\S+)"),
    "varnishd": ("-V", r"varnish-(\S+)"),
    "wrk": ("-v", r"wrk (\S+(?: \d\S*)?)"),
}


def describe() -> dict[str, Any]:
    """Processor, system, versions, and how busy the machine was with something else."""
    return {
        "processor": processor(Path("/proc/cpuinfo").read_text()),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "packages": {name: _package(name) for name in _PACKAGES},
        "programs": {name: _program(name, *how) for name, how in _PROGRAMS.items()},
    }


def processor(cpuinfo: str) -> str:
    """The model, as Linux names it."""
    found = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    return found[1] if found else platform.machine()


def _package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _program(name: str, option: str, pattern: str) -> str | None:
    path = which(name)
    if path is None:
        return None
    asked = subprocess.run([path, option], capture_output=True, text=True, check=False)  # noqa: S603
    found = re.search(pattern, asked.stdout + asked.stderr)
    return found[1].rstrip(",)") if found else "?"
