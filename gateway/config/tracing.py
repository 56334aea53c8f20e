"""Whether requests are traced, and where spans go: OpenTelemetry's own environment variables, no settings.

Its SDK reads most of them by itself, and falls silent where it cannot make sense of one. Those that decide
whether anything is exported, and how much, are read here first, so that a mistake is told at the start.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping

from gateway.config.addresses import is_url
from gateway.config.mistakes import Mistake, quoted

_EXPORTERS = ("otlp", "console", "none")
_SAMPLERS = ("always_on", "always_off", "traceidratio")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def traces_exporter(environ: Mapping[str, str]) -> str | None:
    """Where spans go: otlp or console. None unless an exporter or an endpoint is named.

    OpenTelemetry would take localhost for the collector of those who name neither.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    has_endpoint = any(environ.get(name) for name in _ENDPOINTS)
    said = environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if has_endpoint else "none")
    return None if said == "none" else said


def tracing_mistakes(environ: Mapping[str, str]) -> Iterator[Mistake]:
    """What is wrong with the variables that decide whether anything is exported, and how much."""
    exporter = traces_exporter(environ)
    if exporter is None:
        return
    if exporter not in _EXPORTERS:
        yield _mistake("OTEL_TRACES_EXPORTER", f"one of {', '.join(_EXPORTERS)}", quoted(exporter))
        return
    if importlib.util.find_spec("opentelemetry") is None:
        needed = "the extra `otel` to be installed (pip install 'chat-gateway[otel]')"
        yield _mistake("OTEL_TRACES_EXPORTER", needed, "none")
    for name in _PROTOCOLS:
        if environ.get(name, "http/protobuf") != "http/protobuf":
            yield _mistake(name, "http/protobuf", quoted(environ[name]))
    for name in _ENDPOINTS:
        if environ.get(name) and not is_url(environ[name]):
            yield _mistake(name, "an http or https URL", quoted(environ[name]))
    yield from _sampler_mistakes(environ)


def _sampler_mistakes(environ: Mapping[str, str]) -> Iterator[Mistake]:
    """The SDK would record everything instead, and every hit would take the road."""
    sampler = (environ.get("OTEL_TRACES_SAMPLER") or "always_on").strip().lower()
    if sampler.removeprefix("parentbased_") not in _SAMPLERS:
        expected = f"one of {', '.join(_SAMPLERS)}, or parentbased_ and one of them"
        yield _mistake("OTEL_TRACES_SAMPLER", expected, quoted(environ["OTEL_TRACES_SAMPLER"]))
    ratio = environ.get("OTEL_TRACES_SAMPLER_ARG")
    if ratio and sampler.endswith("traceidratio") and not _is_share(ratio):
        yield _mistake("OTEL_TRACES_SAMPLER_ARG", "a number from 0 to 1", quoted(ratio))


def _is_share(said: str) -> bool:
    try:
        return 0 <= float(said) <= 1
    except ValueError:
        return False


def _mistake(variable: str, expected: str, got: str) -> Mistake:
    return Mistake(f"environment variable {variable}", 0, "", expected, got)
