# SPDX-License-Identifier: Apache-2.0
"""One trace from a stock client with oslo.messaging's tracing on, through the worker, to a stock listener."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.functional.conftest import HOST, MakeWorker
from tests.support import stock
from tests.support.builders import instance_dict, uuid
from tests.support.worker_process import NODE

HOSTS = {HOST: {"n1": NODE}}


class Collector:
    """An OpenTelemetry collector that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing is logged."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def client_spans() -> InMemorySpanExporter:
    """The spans of stock clients in this process, which OpenTelemetry lets choose their provider once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def test_one_trace_goes_from_a_stock_client_through_the_worker_to_a_listener(
    make_worker: MakeWorker,
    broker_vhost: str,
    listener: stock.Listener,
    collector: Collector,
    client_spans: InMemorySpanExporter,
) -> None:
    tracing = {
        "tracing_enabled": True,
        "otel_exporter_otlp_endpoint": f"http://127.0.0.1:{collector.server.server_address[1]}",
        "tracing_service_name": "tracker-worker",
    }
    worker = make_worker(hosts=HOSTS, options={"oslo_messaging_tracing": tracing})
    worker.start()
    worker.wait_ready()
    with stock.client(broker_vhost) as client:
        client.transport.conf.set_override("tracing_enabled", True, group="oslo_messaging_tracing")
        client.prepare(HOST).call({"request_id": "req-1"}, "begin_resource_claim", instance=instance_dict(1))
    begun = listener.wait_for(HOST, "n1", 2)[-1]
    assert worker.terminate() == 0  # a stop exports what has ended

    sent = [span for span in client_spans.get_finished_spans() if span.name.endswith("begin_resource_claim")][-1]
    trace_id = f"{sent.context.trace_id:032x}"
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == trace_id}
    assert set(spans) == {"begin_resource_claim", "queue", "decide", "commit", "reply"}
    request = spans["begin_resource_claim"]
    assert request.parent_span_id.hex() == f"{sent.context.span_id:016x}"
    for name in ("queue", "decide", "commit", "reply"):
        part = spans[name]
        assert part.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= part.start_time_unix_nano <= part.end_time_unix_nano
    assert begun.context["traceparent"].rpartition("-")[0] == f"00-{trace_id}-{request.span_id.hex()}"
    assert begun.payload["instance_id"] == uuid(1)


def test_without_tracing_the_callers_trace_reaches_the_listener(
    make_worker: MakeWorker, client: stock.Client, listener: stock.Listener
) -> None:
    worker = make_worker(hosts=HOSTS)
    worker.start()
    worker.wait_ready()
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for number, traceparent in enumerate((parent, "nonsense", None), 1):
        context = {} if traceparent is None else {"traceparent": traceparent}
        client.prepare(HOST).call(context, "begin_resource_claim", instance=instance_dict(number))
    heard = listener.wait_for(HOST, "n1", 4)[1:]
    assert [each.payload["instance_id"] for each in heard] == [uuid(1), uuid(2), uuid(3)]
    assert [each.context.get("traceparent") for each in heard] == [parent, None, None]
