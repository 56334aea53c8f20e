"""The servers that the other tests go by do what they are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.shared.servers import VERSIONS, Version, needs_debian, redis_server, replica_of, sentinels


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_is_stopped_continued_killed_and_empty_when_it_comes_back(
    tmp_path: Path, version: Version
) -> None:
    with redis_server(tmp_path, version=version, password="hush") as server:
        server.command("SET", "a", "1")
        server.stop()
        with pytest.raises(redis.TimeoutError):
            server.command("GET", "a", timeout_s=0.05)
        server.cont()
        assert server.command("GET", "a") == b"1"
        server.kill()
        with pytest.raises(redis.ConnectionError):
            server.command("GET", "a")
        server.start()
        assert server.command("GET", "a") is None
        assert server.clients() == []


def test_a_replica_takes_no_writes(tmp_path: Path) -> None:
    with redis_server(tmp_path / "master") as master:
        master.command("SET", "a", "1")
        with replica_of(tmp_path / "replica", master) as replica:
            assert replica.command("GET", "a") == b"1"
            with pytest.raises(redis.ReadOnlyError):
                replica.command("SET", "a", "2")


@needs_debian
def test_tls(tmp_path: Path) -> None:
    with redis_server(tmp_path / "server", version="debian", tls=tmp_path / "tls") as server:
        assert server.command("PING")


@needs_debian
def test_an_operator_fails_over(tmp_path: Path) -> None:
    with sentinels(tmp_path) as them:
        them.fail_over()
        assert them.replica.command("SET", "a", "1")
        assert them.master.command("SET", "a", "1")
        them.demote()
        with pytest.raises(redis.ReadOnlyError):
            them.master.command("SET", "a", "1")
