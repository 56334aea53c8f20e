"""OpenTelemetry's variables: what decides whether anything is exported is read strictly."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.config.tracing import traces_exporter, tracing_mistakes

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
RATIO = {"OTEL_TRACES_EXPORTER": "console", "OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}


@pytest.mark.parametrize(
    ("environ", "exporter"),
    [
        ({}, None),
        ({"OTEL_TRACES_EXPORTER": ""}, None),
        ({"OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({ENDPOINT: "http://c.example:4318"}, "otlp"),
        ({TRACES_ENDPOINT: "https://c.example/v1/traces"}, "otlp"),
        ({ENDPOINT: ""}, None),
        ({ENDPOINT: "http://c.example:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({ENDPOINT: "http://c.example:4318", "OTEL_SDK_DISABLED": "True"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "false"}, "otlp"),
        ({"OTEL_SERVICE_NAME": "ours"}, None),
        ({"OTEL_TRACES_SAMPLER": "whatever"}, None),
        *(
            ({"OTEL_TRACES_EXPORTER": "console", "OTEL_TRACES_SAMPLER": f"{of}{sampler}"}, "console")
            for of in ("", "parentbased_")
            for sampler in ("always_on", "always_off", "traceidratio")
        ),
        (RATIO | {"OTEL_TRACES_SAMPLER_ARG": "0.01"}, "console"),
        # Others take none.
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_TRACES_SAMPLER_ARG": "7"}, "console"),
    ],
)
def test_who_names_no_collector_has_none(environ: Mapping[str, str], exporter: str | None) -> None:
    assert traces_exporter(environ) == exporter
    assert list(tracing_mistakes(environ)) == []


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "jaeger"},
            "environment variable OTEL_TRACES_EXPORTER: expected one of otlp, console, none, got 'jaeger'",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "a,b"},
            "environment variable OTEL_TRACES_EXPORTER: expected one of otlp, console, none, got 'a,b'",
        ),
        (
            {ENDPOINT: "http://c.example", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "environment variable OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf, got 'grpc'",
        ),
        (
            {ENDPOINT: "c.example:4318"},
            f"environment variable {ENDPOINT}: expected an http or https URL, got 'c.example:4318'",
        ),
        (
            {TRACES_ENDPOINT: "http://me:word@"},
            f"environment variable {TRACES_ENDPOINT}: expected an http or https URL, got 'http://...@'",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "console", "OTEL_TRACES_SAMPLER": "nope"},
            (
                "environment variable OTEL_TRACES_SAMPLER: expected one of always_on, always_off,"
                " traceidratio, or parentbased_ and one of them, got 'nope'"
            ),
        ),
        *(
            (
                RATIO | {"OTEL_TRACES_SAMPLER_ARG": share},
                f"environment variable OTEL_TRACES_SAMPLER_ARG: expected a number from 0 to 1, got '{share}'",
            )
            for share in ("7", "nan", "-0.1", "1 %")
        ),
    ],
)
def test_a_mistake_is_told(environ: Mapping[str, str], said: str) -> None:
    assert [str(mistake) for mistake in tracing_mistakes(environ)] == [said]
