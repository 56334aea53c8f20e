"""Traces from a process to a collector, over OTLP; without the libraries, and without a collector."""

from __future__ import annotations

import http.server
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.cli.processes import line_of, started, status_of
from tests.support import staged

PATH = "/api/account/123/chat/H1-2/info"


class Collector(http.server.HTTPServer):
    """What was posted, by path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Posted)
        self.posted: list[tuple[str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Posted(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.posted.append((self.path, body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing, or it would be on standard error."""


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


def test_spans_reach_a_collector(tmp_path: Path) -> None:
    with collecting() as collector:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
        with started("serve", "--config", str(staged(tmp_path).config), environ=environ) as process:
            said = line_of(process)
            assert status_of(said["public"], PATH) == 401
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=15) == 0
        ((path, body),) = collector.posted
    assert path == "/v1/traces"
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    attributes = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
    assert attributes["service.name"] == "chat-gateway"
    ((span,),) = (scope.spans for scope in resource.scope_spans)
    assert span.name == "GET"
    told = {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}
    assert told["chat_gateway.outcome"] == "token-missing"
    assert told["http.response.status_code"] == 401


def test_a_collector_that_is_not_there_holds_nothing_up(tmp_path: Path) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    with started("serve", "--config", str(staged(tmp_path).config), environ=environ) as process:
        said = line_of(process)
        assert status_of(said["public"], PATH) == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0


@pytest.mark.parametrize("command", ["serve", "check"])
def test_it_says_what_is_missing(tmp_path: Path, command: str) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    # Python runs this first, and takes a module that is None for one that is not there.
    folder.joinpath("sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry'] = None\n")
    environ = {"PYTHONPATH": str(folder), "OTEL_TRACES_EXPORTER": "otlp"}
    with started(command, "--config", str(staged(tmp_path).config), environ=environ) as process:
        out, err = process.communicate(timeout=15)
    assert process.returncode == 1
    (line,) = (out + err).splitlines()
    needed = "the extra `otel` to be installed (pip install 'chat-gateway[otel]')"
    assert line.endswith(f"environment variable OTEL_TRACES_EXPORTER: expected {needed}, got none")
