"""Traces, as OpenTelemetry's own code reads them: its Python SDK as the caller's and the API's, its messages as the collector's."""

import gzip
import http.client
import http.server
import threading
import time
from collections import deque

import pytest
from conftest import ENVIRONMENT, SECRETS, Sidecar, configuration, route
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.semconv.attributes import (
    error_attributes,
    http_attributes,
    network_attributes,
    server_attributes,
    url_attributes,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from upstream import Upstream

KEY = "collector-key-4f1c8a"
XRAY = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\napigw-requestid: JKJaXmPLvHcESHA=\r\n\r\nok"
# Counts against a reader who takes the specification by the letter; Python's SDK is asked for each.
PARENTS = [
    f"00-{TRACE}-00f067aa0ba902b7-01",
    f"00-{TRACE}-00f067aa0ba902b7-03",
    f"01-{TRACE}-00f067aa0ba902b7-01",
    f"cc-{TRACE}-00f067aa0ba902b7-01-more-to-come",
    f"ff-{TRACE}-00f067aa0ba902b7-01",
    f"00-{TRACE}-00f067aa0ba902b7-01-more",
    f"00-{'0' * 32}-00f067aa0ba902b7-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE}-00f067aa0ba902b7",
    f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
    f"0-{TRACE}-00f067aa0ba902b7-01",
    "00-4bf92f-00f067aa0ba902b7-01",
    "garbage",
]


class Collector:
    """An OTLP collector on HTTP that keeps what it is given, and answers as it is told, with 200 in the end."""

    def __init__(self, *statuses: int):
        self.batches: list[ExportTraceServiceRequest] = []
        self.heads: list[dict[str, str]] = []
        self.statuses = deque(statuses)
        self.changed = threading.Condition()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                batch = ExportTraceServiceRequest.FromString(body)
                with outer.changed:
                    status = outer.statuses.popleft() if outer.statuses else 200
                    if status == 200:
                        outer.batches.append(batch)
                    outer.heads.append({name.lower(): value for name, value in self.headers.items()} | {":path": self.path})
                    outer.changed.notify_all()
                answer = ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess()).SerializeToString()
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def spans(self) -> list[Span]:
        with self.changed:
            return [span for batch in self.batches for resource in batch.resource_spans for scope in resource.scope_spans for span in scope.spans]

    def wait_for(self, number: int) -> list[Span]:
        deadline = time.monotonic() + 20  # the sidecar gathers for 5 s
        with self.changed:
            while len(self.spans) < number and time.monotonic() < deadline:
                self.changed.wait(0.2)
        assert len(self.spans) >= number, f"{len(self.spans)} of {number} spans"
        return self.spans

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def collector():
    server = Collector()
    yield server
    server.close()


@pytest.fixture(scope="module")
def api():
    upstream = Upstream(lambda arrived: OK if arrived.target != b"/open/fails" else OK.replace(b"200 OK", b"503 Down"))
    yield upstream
    upstream.close()
    assert upstream.failures == []


def open_route(api) -> str:
    return f'[[route]]\nname = "open"\npath = "/open"\nupstream = "http://127.0.0.1:{api.port}"\nauth = "none"\n'


@pytest.fixture(scope="module")
def sidecar(start, gateway, api, collector):
    traces = (
        f'[traces]\nendpoint = "http://127.0.0.1:{collector.port}/v1/traces"\nservice_name = "orders-sidecar"\n'
        'headers = { x-api-key = { env = "COLLECTOR_KEY" } }\nresource = { "deployment.environment.name" = "test" }\n'
    )
    config = configuration(traces, open_route(api), route(gateway, "/signed", "/prod", "session"))
    return start(config, environment={"COLLECTOR_KEY": KEY}, known_secrets={KEY})


def ask(sidecar, path: str, fields: dict[str, str] | None = None, method: str = "GET", body: bytes | None = None) -> int:
    connection = http.client.HTTPConnection(*sidecar.proxy, timeout=20)
    try:
        connection.request(method, path, body, fields or {})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def attributes(carrier) -> dict:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in carrier.attributes}


def extracted(fields: dict[str, str]) -> trace.SpanContext:
    """What OpenTelemetry's SDK makes of these fields."""
    return trace.get_current_span(TraceContextTextMapPropagator().extract(fields)).get_span_context()


def received(api, path: bytes) -> dict[str, str]:
    arrived = [one for one in api.arrived if one.target == path][-1]
    names = ("traceparent", "tracestate", "x-amzn-trace-id")
    return {name: b",".join(arrived.values(name)).decode() for name in names if arrived.values(name)}


def test_the_callers_span_is_above_ours_and_ours_above_the_apis(sidecar, api, collector):
    before = len(collector.spans)
    tracer = TracerProvider().get_tracer("caller")
    with tracer.start_as_current_span("call") as caller:
        fields: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(fields)
        fields |= {"tracestate": "rojo=1,congo=2", "x-amzn-trace-id": XRAY}
        assert ask(sidecar, "/open/a?key=not-to-be-told", fields, "POST", b"12345") == 200
    told = received(api, b"/open/a?key=not-to-be-told")
    above = extracted(told)
    assert above.is_remote and above.trace_flags.sampled
    assert told["tracestate"] == "rojo=1,congo=2" and told["x-amzn-trace-id"] == XRAY
    span = collector.wait_for(before + 1)[-1]
    context = caller.get_span_context()
    assert int.from_bytes(span.trace_id) == context.trace_id == above.trace_id
    assert int.from_bytes(span.parent_span_id) == context.span_id
    assert int.from_bytes(span.span_id) == above.span_id != context.span_id
    assert span.kind == Span.SPAN_KIND_SERVER and span.name == "POST open"
    assert [event.name for event in span.events] == ["receive", "credential", "connect", "first_byte", "body"]
    times = [event.time_unix_nano for event in span.events]
    assert [span.start_time_unix_nano, *times[1:], span.end_time_unix_nano] == sorted([*times, span.end_time_unix_nano])
    assert abs(span.start_time_unix_nano / 1e9 - time.time()) < 60
    told = attributes(span)
    assert told.items() >= {
        http_attributes.HTTP_REQUEST_METHOD: "POST", url_attributes.URL_PATH: "/open/a", url_attributes.URL_SCHEME: "http",
        http_attributes.HTTP_RESPONSE_STATUS_CODE: 200, network_attributes.NETWORK_PROTOCOL_VERSION: "1.1",
        server_attributes.SERVER_ADDRESS: "127.0.0.1", "countersign.route": "open", "countersign.outcome": "delivered",
        "countersign.upstream": f"127.0.0.1:{api.port}", "aws.request_id": "JKJaXmPLvHcESHA=",
    }.items()  # fmt: skip
    assert error_attributes.ERROR_TYPE not in told and span.status.code == Status.STATUS_CODE_UNSET
    batch = collector.batches[-1]
    resource = attributes(batch.resource_spans[0].resource)
    assert resource["service.name"] == "orders-sidecar" and resource["deployment.environment.name"] == "test"
    assert "not-to-be-told" not in str(batch)
    head = collector.heads[-1]
    assert (head[":path"], head["content-type"], head["x-api-key"]) == ("/v1/traces", "application/x-protobuf", KEY)
    [line] = [entry for entry in sidecar.access() if entry["aws_request_id"] == "JKJaXmPLvHcESHA="]
    assert line["request_id"] == told["countersign.request_id"]


@pytest.mark.parametrize("parent", PARENTS)
def test_a_traceparent_counts_where_the_sdk_lets_it_count(sidecar, api, collector, parent):
    before = len(collector.spans)
    path = b"/open/%d" % PARENTS.index(parent)
    assert ask(sidecar, path.decode(), {"traceparent": parent, "tracestate": "a=1"}) == 200
    theirs, told = extracted({"traceparent": parent}), received(api, path)
    ours = extracted(told)
    assert ours.is_valid, told
    assert (ours.trace_id == theirs.trace_id) == theirs.is_valid, (parent, told)
    assert ("tracestate" in told) == theirs.is_valid
    [span] = [span for span in collector.wait_for(before + 1) if attributes(span)["url.path"] == path.decode()]
    assert int.from_bytes(span.parent_span_id) == (theirs.span_id if theirs.is_valid else 0)


def test_what_fails_has_an_error_type_and_what_signs_keeps_its_signature(sidecar, gateway, collector):
    before = len(collector.spans)
    assert ask(sidecar, "/open/fails") == 503
    assert ask(sidecar, "/nowhere") == 404
    assert ask(sidecar, "/signed/x", {"traceparent": PARENTS[0]}) == 200
    spans = {attributes(span)["url.path"]: span for span in collector.wait_for(before + 3)}
    assert attributes(spans["/open/fails"])["error.type"] == "503" and spans["/open/fails"].status.code == Status.STATUS_CODE_ERROR
    assert attributes(spans["/nowhere"])["error.type"] == "no-route" and spans["/nowhere"].status.code == Status.STATUS_CODE_UNSET
    assert attributes(spans["/signed/x"])["countersign.outcome"] == "delivered"


def test_a_collector_that_is_down_costs_nothing_and_is_told_once(start, api):
    collector = Collector(*[503] * 2)
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}", "OTEL_SERVICE_NAME": "from-the-environment"}
    sidecar = start(configuration(open_route(api)), environment=variables)
    begun = time.monotonic()
    for number in range(50):
        assert ask(sidecar, f"/open/down/{number}") == 200
    assert time.monotonic() - begun < 20
    assert len({span.span_id for span in collector.wait_for(50)}) == 50
    lines = [line for line in sidecar.output.splitlines() if "the collector does not take spans" in line]
    assert len(lines) == 1, lines
    assert attributes(collector.batches[0].resource_spans[0].resource)["service.name"] == "from-the-environment"
    collector.close()


def test_the_last_spans_are_sent_at_the_end(gateway, api, tmp_path):
    collector = Collector()
    gateway.ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    traces = f'[traces]\nendpoint = "http://127.0.0.1:{collector.port}/v1/traces"\n'
    sidecar = Sidecar(tmp_path, configuration(traces, open_route(api)), ENVIRONMENT, SECRETS)
    assert ask(sidecar, "/open/last") == 200
    sidecar.stop()
    assert [attributes(span)["url.path"] for span in collector.spans] == ["/open/last"]
    collector.close()


def test_off_is_off(start, api):
    sidecar = start(configuration(open_route(api)))
    fields = {"traceparent": "garbage", "tracestate": "Not=valid=at all", "x-amzn-trace-id": XRAY}
    assert ask(sidecar, "/open/off", fields) == 200
    assert received(api, b"/open/off") == fields
    assert ask(sidecar, "/open/none") == 200
    assert received(api, b"/open/none") == {}
