"""OpenTelemetry, where the environment asks for it by OTEL_EXPORTER_OTLP_ENDPOINT; else nothing happens.

Each command is a span, and so is each pull of `dsops label watch`; requests of `dsops review` are a histogram. Standard
variables (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, …) hold. No ids of items are sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
REQUESTS: Final = "dsops.review.request.duration"
_NAME: Final = "dsops"
_PATIENCE: Final = 5  # seconds to wait for a collector that does not answer


def is_asked() -> bool:
    return bool(os.environ.get(ENDPOINT)) and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"


def missing() -> str | None:
    """What to tell where telemetry is asked for and cannot be had."""
    if is_asked() and _providers() is None:
        return f"{ENDPOINT} is set, but nothing is sent: pip install 'dsops[telemetry]'"
    return None


@contextmanager
def span(name: str, **attributes: str | int) -> Iterator[Any]:
    """Time some work; the span, whose attributes may be set, or None where nobody asked. Errors are recorded by type."""
    providers = _providers() if is_asked() else None
    if providers is None:
        yield None
        return
    told = {f"{_NAME}.{key}": value for key, value in attributes.items()}
    tracer = providers[0].get_tracer(_NAME)
    with tracer.start_as_current_span(
        name, attributes=told, record_exception=False, set_status_on_exception=False
    ) as made:
        try:
            yield made
        except Exception as error:
            from opentelemetry.trace import StatusCode

            status = getattr(error, "exit_code", "")  # of a command
            made.set_status(StatusCode.ERROR, f"{type(error).__name__} {status}".strip())
            raise


def count_request(seconds: float, method: str, route: str, status: int) -> None:
    """A request of the review app; `route` is the address's pattern."""
    if is_asked() and _providers() is not None:
        _requests().record(
            seconds,
            {"http.request.method": method, "http.route": route, "http.response.status_code": status},
        )


def flush() -> None:
    """Send what waits, so that a process may end."""
    if is_asked() and (providers := _providers()) is not None:
        for provider in providers:
            provider.force_flush(_PATIENCE * 1000)


@cache
def _providers() -> tuple[Any, Any] | None:
    """(of traces, of metrics); None where the packages are not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        return None
    resource = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": _NAME})
    traces = TracerProvider(resource=resource)
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_PATIENCE)))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=_PATIENCE))
    return traces, MeterProvider(resource=resource, metric_readers=[reader])


@cache
def _requests() -> Any:
    providers = _providers()
    if providers is None:
        raise RuntimeError("telemetry was not asked for")
    meter = providers[1].get_meter(_NAME)
    return meter.create_histogram(REQUESTS, unit="s", description="Time until the answer to a request began.")
