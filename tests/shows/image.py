"""The steps of the Dockerfile, without an engine: `python -m tests.shows.image`.

What RUN says is run as it stands, stage by stage, with the paths of the image below a folder, and a virtual
environment with pip in place of the base image's Python. Then, as the image's user and where nothing can be
written but the journal, the gateway says its version, checks a configuration, serves, and is asked for its
health.

What this can't tell: whether the base image has what the steps want, and what layers make of it. As root; who
is not root keeps his user. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.demo.children import free_ports
from gateway.demo.stage import set_stage
from tests.image.dockerfile import CHECKOUT, DOCKERFILE, Stage, read

IS_ROOT = os.geteuid() == 0
USER = "10001"
#: Reads everything, as it may lie where this machine lets only root look, and writes nothing.
AS_USER = (
    *(
        shutil.which("setpriv") or "setpriv",
        "--no-new-privs",
        f"--reuid={USER}",
        f"--regid={USER}",
        "--clear-groups",
    ),
    *(f"--{kind}=-all,+dac_read_search" for kind in ("bounding-set", "inh-caps", "ambient-caps")),
)
#: Where the steps write, and the base image's Python.
PLACES = ("/opt/chat-gateway", "/usr/local", "/var/lib/chat-gateway", "/dist", "/requirements-otel.txt")
START_S = 20.0


class Ground:
    """A folder that stands for the root of the image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.base = root / "base"
        subprocess.run([sys.executable, "-m", "venv", str(self.base)], check=True)  # noqa: S603 - our own
        library = Path(sysconfig.get_path("stdlib"))
        leave_out = shutil.ignore_patterns("__pycache__", "test", "tests", "site-packages")
        shutil.copytree(library, self / "usr/local/lib" / library.name, ignore=leave_out)
        (self / "usr/local/bin").mkdir()

    def __truediv__(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def within(self, text: str) -> str:
        """The same with the places of the image where they are here."""
        return re.sub("|".join(map(re.escape, PLACES)), lambda found: f"{self.root}{found[0]}", text)

    def build(self, stage: Stage) -> None:
        """Carry out what a stage copies and runs."""
        folder = self / "scratch" / (stage.name or "image")
        folder.mkdir(parents=True)
        environ = {name: self.within(value) for name, value in stage.environ().items()}
        environ["PATH"] = f"{self.base / 'bin'}:{os.environ['PATH']}"
        for word, rest in stage.instructions:
            if word == "COPY" and not rest.startswith("--from="):
                *sources, target = rest.split()
                self._copy(sources, folder if target[0] != "/" else self.root, target)
            elif word == "RUN":
                command = self.within(rest)
                subprocess.run(  # noqa: S603 - the Dockerfile's own
                    ["/bin/sh", "-ec", command],
                    cwd=folder,
                    env=os.environ | environ,
                    stdout=sys.stderr,
                    check=True,
                )

    def _copy(self, sources: Sequence[str], folder: Path, target: str) -> None:
        for name in sources:
            source, place = CHECKOUT / name, folder / target.lstrip("/")
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, place)


def files(folder: Path) -> frozenset[Path]:
    return frozenset(path for path in folder.rglob("*") if path.is_file())


def uncompiled(folder: Path) -> list[str]:
    """Modules that would be compiled each time."""
    tag = sys.implementation.cache_tag
    return [
        str(path)
        for path in folder.rglob("*.py")
        if not (path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc").exists()
    ]


class Image:
    """The gateway as the image has it."""

    def __init__(self, ground: Ground, environ: Mapping[str, str]) -> None:
        program = ground / "opt/chat-gateway/bin/chat-gateway"
        self._command = [*(AS_USER if IS_ROOT else ()), str(program)]
        # Nothing of this machine's environment.
        self._environ = {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "LANG": "C.UTF-8", **environ}

    def start(self, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603 - our own command
            [*self._command, *arguments],
            cwd=cwd,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, cwd: Path) -> str:
        process = self.start(*arguments, cwd=cwd)
        said, _ = process.communicate(timeout=START_S)
        if process.returncode:
            raise SystemExit(
                f"{shlex.join(arguments)}: expected exit code 0, got {process.returncode}: {said}"
            )
        return said.strip()


def served(image: Image, folder: Path) -> dict[str, str]:
    """What the gateway says of itself from its start to its end."""
    public, private = free_ports(2)
    set_stage(
        folder,
        listen=f"0.0.0.0:{public}",
        admin_listen=f"0.0.0.0:{private}",
        public_url="http://127.0.0.1:8080",
        upstream_url="http://127.0.0.1:9",
        app_key="key",
        revocations={"journal": "journal/revocations.jsonl"},
        redis_url="redis://127.0.0.1:9/0",
        drain_delay_s=0,
    )
    journal = folder / "journal"
    journal.mkdir()
    if IS_ROOT:
        os.chown(journal, int(USER), int(USER))
    said = {"version": image.run("--version", cwd=folder)}
    said["check"] = image.run("check", "--config", "gateway.yaml", cwd=folder).splitlines()[-1]
    process = image.start("serve", "--config", "gateway.yaml", cwd=folder)
    try:
        assert process.stdout is not None
        told = ""
        while "listening" not in told:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"serve: expected it to listen, got its end: {told}")
            told += line
        said["healthcheck"] = image.run("healthcheck", cwd=folder)
        process.terminate()
        process.communicate(timeout=START_S)
    finally:
        process.kill()
    said["journal"] = ", ".join(sorted(path.name for path in journal.iterdir()))
    return said


def main() -> None:
    """Builds it and tries it; exits with 1 and a sentence if something is not as it should be."""
    began = time.perf_counter()
    _, stages = read(DOCKERFILE.read_text())
    with tempfile.TemporaryDirectory() as place:
        ground = Ground(Path(place) / "root")
        for stage in stages:
            ground.build(stage)
        installed = ground / "opt/chat-gateway"
        library = ground / "usr/local/lib"
        if left := [str(path) for path in files(ground.root / "opt") if "/pip/" in str(path)]:
            raise SystemExit(f"{installed}: expected no pip, got {left[0]}")
        if missing := [*uncompiled(installed / "lib"), *uncompiled(library)]:
            raise SystemExit(f"expected every module to be compiled, got {len(missing)} not: {missing[0]}")
        before = files(ground / "opt") | files(library)
        built_s = time.perf_counter() - began
        Path(place).chmod(0o755)
        folder = Path(place) / "configuration"
        folder.mkdir()
        said = served(Image(ground, stages[-1].environ()), folder)
        if new := (files(ground / "opt") | files(library)) ^ before:
            raise SystemExit(f"expected nothing to be written, got {len(new)} files")
        size = sum(path.stat().st_size for path in files(installed))
    print(json.dumps({"built_s": round(built_s, 1), "installed_mb": round(size / 1e6), **said}))


if __name__ == "__main__":
    main()
