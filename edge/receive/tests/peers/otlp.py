"""Sends one of everything by the OpenTelemetry SDK: otlp.py grpc|http ADDRESS."""
import logging
import sys
import warnings

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

warnings.simplefilter("ignore")
way, address = sys.argv[1:]
if way == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from grpc import Compression

    more = lambda _: {"endpoint": address, "insecure": True, "compression": Compression.Gzip}
else:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

    more = lambda signal: {"endpoint": f"http://{address}/v1/{signal}", "compression": Compression.Gzip}

resource = Resource.create({"host.name": "host1", "service.name": "trainer"})
meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(**more("metrics")))], resource)
meter = meters.get_meter("peer")
port = {"network.interface.name": "p0", "network.io.direction": "receive"}
meter.create_counter("system.network.errors").add(7, port)
meter.create_histogram("step.duration").record(0.25)
meter.create_gauge("loss").set(1.5)

tracers = TracerProvider(resource=resource)
tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(**more("traces"))))
logs = LoggerProvider(resource)
logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(**more("logs"))))
log = logging.getLogger("peer")
log.addHandler(LoggingHandler(logger_provider=logs))
with tracers.get_tracer("peer").start_as_current_span("all-reduce", kind=trace.SpanKind.CLIENT) as span:
    span.set_attribute("rank", 3)
    log.error("gradient is not finite")
    print(format(span.get_span_context().trace_id, "032x"))

assert all([meters.force_flush(), tracers.force_flush(), logs.force_flush()])
