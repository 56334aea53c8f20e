"""What all workloads stand on: keys and tokens, the upstream, and servers to be started beside each other."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gateway.demo.children import free_ports
from gateway.demo.stage import ACCOUNT, AUDIENCE, ISSUER, Stage, set_stage
from gateway.demo.wire import request
from gateway.identity.development import mint
from tests.benchmarks import processes
from tests.benchmarks.peer import SECRET, Peer, Site, prepare
from tests.benchmarks.processes import HOST, DidNotStart, Server
from tests.benchmarks.upstream import Upstream

APP_KEY = "e0000000000000000000000000000001"
LIFETIME_S = 12 * 3600
#: One client has limits, as high as they go; the other has none.
LIMITED, UNLIMITED, STRICTER, VIEWING, EXACT = "bench", "free", "stricter", "viewing", "exact"
CHAT = "H6249979066121302517-1027c4d1c386bbc4cd613e30d8f16adfK5279348"
JSON = "application/json"
_LIMITS = {"requests": {"per_second": 100_000, "burst": 100_000}}
_MORE_LIMITS = {**_LIMITS, "requests_per_day": 1_000_000_000, "in_flight": 100_000}
#: What an account gets by default is far less than what is measured here.
_BUDGET = {"per_second": 10_000, "burst": 10_000, "in_flight": 10_000, "queue": 100_000, "wait_ms": 5_000}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done: for each server `rounds` measurements of `seconds`, after `warm_s` of the same."""

    quick: bool = False
    long: bool = False
    rounds: int = 5
    seconds: float = 5.0
    warm_s: float = 1.0


QUICK = Scale(quick=True, rounds=2, seconds=1.0)


@dataclass(frozen=True, slots=True)
class Ground:
    """Where everything is. `folder` is in memory where there is such a place; `core` is the servers'.

    `not_run` collects what could not be started, and why.
    """

    folder: Path
    stage: Stage
    upstream: Upstream
    core: int
    not_run: dict[str, str] = field(default_factory=dict)
    _tokens: dict[str, list[str]] = field(default_factory=dict)

    def token(self, index: int = 0, subject: str = LIMITED) -> str:
        """A token of RS256, another for each index; made once, as signing takes a millisecond."""
        made = self._tokens.setdefault(subject, [])
        while len(made) <= index:
            made.append(self.stage.token(subject, LIFETIME_S, jti=f"{subject}-{len(made)}"))
        return made[index]

    def token_for(self, peer: Peer) -> str:
        """A token that this peer takes: some share a secret with its issuer."""
        if peer.token != "HS256":
            return self.token()
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": LIMITED, "exp": int(self.stage.wall() + LIFETIME_S)}
        return mint(SECRET.encode(), "HS256", None, claims)

    @contextlib.contextmanager
    def gateway(
        self, name: str = "gateway", clients: Mapping[str, object] | None = None, **settings: Any
    ) -> Iterator[Server]:
        """The gateway as it is shipped, with more clients and other settings. Raises DidNotStart."""
        public, private = free_ports(2)
        folder, slug = self.stage.config.parent, _slug(name)
        said = yaml.safe_load(self.stage.config.read_text())
        said |= {
            "listen": f"{HOST}:{public}",
            "admin_listen": f"{HOST}:{private}",
            # One writer each.
            "revocations": {"journal": f"{slug}.jsonl"},
            **settings,
        }
        if clients is not None:
            said["policies"] = f"policies-{slug}"
            shutil.copytree(folder / "policies", folder / said["policies"], dirs_exist_ok=True)
            write_clients(folder / said["policies"], "more", clients)
        config = folder / f"{slug}.yaml"
        config.write_text(yaml.safe_dump(said))
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
        with processes.running(name, command, self.folder, port=public, core=self.core) as server:
            yield server

    def private_port(self, name: str) -> int:
        """Where a gateway of that name listens for operators."""
        config = self.stage.config.with_name(f"{_slug(name)}.yaml")
        said = yaml.safe_load(config.read_text())["admin_listen"]
        return int(said.rpartition(":")[2])

    @contextlib.contextmanager
    def peer(self, peer: Peer, body: bytes = b"") -> Iterator[Server]:
        """One of the peers; `body` is for those with a fixed answer. Raises DidNotStart."""
        folder = self.folder / "peers" / peer.slug
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        [port] = free_ports(1)
        site = Site(folder, port, self.upstream.port, APP_KEY, self.stage.private_key, body)
        with processes.running(
            peer.name, prepare(peer, site), self.folder, port=port, core=self.core
        ) as server:
            yield server

    def started(
        self, stack: contextlib.ExitStack, server: contextlib.AbstractContextManager[Server], name: str
    ) -> Server | None:
        """A server that runs as long as the stack; None, and a line in `not_run`, where it does not start."""
        try:
            return stack.enter_context(server)
        except DidNotStart as error:
            self.not_run[name] = str(error)
            return None


def _slug(name: str) -> str:
    return re.sub(r"[^a-z]+", "-", name.lower())


def client(subject: str, **said: object) -> dict[str, object]:
    """The policy of a client that may poll and write."""
    allow = ["account:read", "chat:read", "chat:write"]
    return {"match": {"iss": ISSUER, "sub": subject}, "accounts": "*", "allow": allow, **said}


def write_clients(policies: Path, name: str, clients: Mapping[str, object]) -> None:
    """Put a file of clients beside the shipped ones."""
    (policies / "clients" / f"{name}.yaml").write_text(yaml.safe_dump({"clients": dict(clients)}))


def let_ended_stay(resources: Path) -> None:
    """Keep the info of ended chats as long as may be: where look-ups are measured, fetches are in the way."""
    shipped = resources.read_text()
    changed = shipped.replace("ended: 10000", "ended: 30000")
    if changed == shipped:
        raise ValueError(f"{resources.name}: expected ended: 10000 in it, got none")
    resources.write_text(changed)


def info_path(chat: str = CHAT) -> str:
    """Where the info of a chat is."""
    return f"/api/account/{ACCOUNT}/chat/{chat}/info"


def chat_id(index: int) -> str:
    """One id of many, each as long as the vendor's are."""
    return f"H{index:019d}-1027c4d1c386bbc4cd613e30d8f16adfK5279348"


def asking(
    token: str,
    chat: str = CHAT,
    *,
    method: str = "GET",
    below: str = "",
    body: bytes = b"",
    fields: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of a request for an info, or for what is `below` it."""
    head = {"Authorization": f"Bearer {token}", "Accept": JSON, **(fields or {})}
    return request(method, HOST, info_path(chat) + below, head, body)


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """Set it all up while the block runs: this process moves to the load's core. Raises DidNotStart."""
    core, load_core = processes.cores()
    processes.pin(load_core)
    processes.allow_many_files()
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
    with tempfile.TemporaryDirectory(prefix="chat-gateway-", dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        # nginx's worker and others may be somebody else.
        folder.chmod(0o755)
        [port] = free_ports(1)
        stage = set_stage(
            folder,
            listen=f"{HOST}:0",
            admin_listen=f"{HOST}:0",
            public_url="https://chat.example",
            upstream_url=f"http://{HOST}:{port}",
            app_key=APP_KEY,
            algorithm="RS256",
            log_level="warning",
            budget=_BUDGET,
        )
        let_ended_stay(folder / "policies" / "resources.yaml")
        clients = {
            LIMITED: client(LIMITED, limits=_LIMITS),
            UNLIMITED: client(UNLIMITED),
            STRICTER: client(STRICTER, limits=deepcopy(_MORE_LIMITS)),
            EXACT: client(EXACT, limits={**deepcopy(_LIMITS), "shared": "exact"}),
            VIEWING: client(VIEWING, limits=deepcopy(_LIMITS), view={"hide": ["agentName", "visitorName"]}),
        }
        write_clients(folder / "policies", "bench", clients)
        command = [sys.executable, "-m", "tests.benchmarks.upstream", str(port)]
        with processes.running("upstream", command, folder, port=port, core=load_core):
            yield Ground(folder, stage, Upstream(port), core)
