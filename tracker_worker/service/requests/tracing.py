# SPDX-License-Identifier: Apache-2.0
"""Spans of requests for OpenTelemetry: from the receipt of a request to its answer, as a part of the caller's trace.

A stock client with tracing on puts the W3C traceparent (https://www.w3.org/TR/trace-context/) into the request's context; the
notification of a decision carries that of the worker's span on. With tracing off, none of this module is imported, and the
notification carries the caller's traceparent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from oslo_config import cfg

from tracker_worker import threads
from tracker_worker.errors import ConfigurationError
from tracker_worker.service.requests.methods import METHODS
from tracker_worker.service.requests.pending import PendingRequest

GROUP = "oslo_messaging_tracing"
_SECOND = 1_000_000_000


class Stages(Protocol):
    """When a request got how far, in seconds on the monotonic clock."""

    began: float
    decided: float
    committed: float


class Tracing:
    """Any thread may call ``begin``; ``end`` belongs to the engine's thread."""

    def __init__(self, provider: Any, *, worker: str, runtime: threads.Runtime) -> None:
        """``provider`` is OpenTelemetry's TracerProvider; ``worker`` is this worker's name."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("tracker_worker")
        self._propagator = TraceContextTextMapPropagator()
        self._kind = SpanKind.CONSUMER
        self._runtime = runtime
        self._monotonic = runtime.monotonic
        self._microseconds = runtime.microseconds
        self._worker = worker

    def begin(self, request: PendingRequest, context: Mapping[str, Any]) -> None:
        """Begin the span of a request that has been read; from here on, the request carries the traceparent of its span."""
        carried = {name: value for name, value in context.items() if isinstance(value, str)}
        method = request.method if request.method in METHODS else "unknown"  # whatever it holds, however long it is
        attributes = {
            "messaging.system": "rabbitmq",
            "messaging.operation.type": "process",
            "messaging.destination.name": request.delivery.source,
            "rpc.method": method,
            "openstack.request_id": request.asked.request_id,
            "service.instance.id": self._worker,
        }
        request.span = self._tracer.start_span(
            method,
            context=self._propagator.extract(carried),
            kind=self._kind,
            attributes=attributes,
            start_time=self._at(request.received_at),
        )
        into: dict[str, str] = {}
        self._propagator.inject(into, context=self._within(request.span))
        request.asked.traceparent = into.get("traceparent", "")

    def end(self, request: PendingRequest, outcome: str, stages: Stages | None) -> None:
        """End the span of a request, with a span for each stage that it has passed. ``outcome``: ok, or the error's code."""
        span, request.span = request.span, None
        if span is None:
            return
        now = self._monotonic()
        if stages is not None:
            within = self._within(span)
            moments = (stages.began, stages.decided, stages.committed, now)
            times = [span.start_time, *(span.start_time + self._after(request, moment) for moment in moments)]
            for name, since, until in zip(("queue", "decide", "commit", "reply"), times, times[1:], strict=False):
                part = self._tracer.start_span(name, context=within, start_time=since)
                part.end(end_time=until)
        span.set_attribute("tracker.outcome", outcome)
        span.end(end_time=span.start_time + self._after(request, now))

    def stop(self, seconds: float) -> None:
        """Export what has ended, for at most so long: the collector may be away."""
        thread = self._runtime.thread(self._provider.shutdown, "tracker-spans", lambda error: None)
        thread.start()
        thread.join(seconds)

    def _within(self, span: Any) -> Any:
        from opentelemetry.trace import set_span_in_context

        return set_span_in_context(span)

    @staticmethod
    def _after(request: PendingRequest, moment: float) -> int:
        """Nanoseconds from the receipt of the request to a moment on the monotonic clock."""
        return max(0, int((moment - request.received_at) * _SECOND))

    def _at(self, seconds: float) -> int:
        """A time on the monotonic clock as nanoseconds since the epoch."""
        return self._microseconds() * 1000 - int((self._monotonic() - seconds) * _SECOND)


def configured_tracing(conf: cfg.ConfigOpts, *, worker: str, runtime: threads.Runtime) -> Tracing | None:
    """What the options of oslo.messaging's own tracing say; None: it is off. Raises ConfigurationError: the packages of the
    extra ``tracing`` are missing."""
    options = conf[GROUP]
    if not options.tracing_enabled:
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=Resource.create({"service.name": options.tracing_service_name}))
        provider.add_span_processor(BatchSpanProcessor(_exporter(options)))
    except ImportError as error:
        raise ConfigurationError(
            f"[{GROUP}] tracing_enabled needs OpenTelemetry ({error}): install tracker-worker with its extra 'tracing', and "
            "for otlp_protocol grpc opentelemetry-exporter-otlp-proto-grpc"
        ) from error
    return Tracing(provider, worker=worker, runtime=runtime)


def _exporter(options: Any) -> Any:
    if options.otlp_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GRPCExporter

        return GRPCExporter(endpoint=options.otel_exporter_otlp_endpoint, insecure=options.insecure)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=options.otel_exporter_otlp_endpoint.rstrip("/") + "/v1/traces")
