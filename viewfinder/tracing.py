"""Traces: spans of OpenTelemetry, off unless `start` is called.

Off, nothing of OpenTelemetry is imported, and each place that would make a span costs one comparison of `active` with
None. Spans have names of routes, models and collections, sizes and statuses; never texts, API keys or keys of objects.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Literal

from viewfinder._version import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

Attributes = Mapping[str, str | int]
Kind = Literal["INTERNAL", "SERVER", "CLIENT"]

SERVICE_NAME = "viewfinder"


class Traces:
    """Makes the spans of this process and continues those of others (W3C Trace Context)."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("viewfinder", __version__)
        # Not baggage: it may hold anything, and would be passed on to Qdrant.
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(
        self,
        name: str,
        kind: Kind = "INTERNAL",
        attributes: Attributes | None = None,
        *,
        parent: "Context | None" = None,
    ) -> Iterator["Span"]:
        """A span that is the current one in the block; an error that leaves the block sets its status."""
        span = self._tracer.start_span(name, parent, kind=self._trace.SpanKind[kind], attributes=attributes)
        with self._trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except BaseException as error:
                self.fail(span, type(error).__name__)
                raise
            finally:
                span.end()

    def fail(self, span: "Span", kind: str) -> None:
        """Mark a span as failed. Only with the kind of the error: its message may repeat what a user has sent."""
        span.set_attribute("error.type", kind)
        span.set_status(self._trace.StatusCode.ERROR)

    def is_traced(self) -> bool:
        """True within a span: what no request asked for, such as looking up the live collection, gets no trace."""
        return self._trace.get_current_span().get_span_context().is_valid

    def extract(self, headers: Mapping[str, str]) -> "Context":
        """The context in the headers of a request."""
        return self._propagator.extract(headers)

    def headers(self) -> dict[str, str]:
        """The headers that continue the current span in another program."""
        found: dict[str, str] = {}
        self._propagator.inject(found)
        return found

    def waiting(self) -> "Waiting | None":
        """The place of the current request in a queue that it enters now; None outside of a span."""
        span = self._trace.get_current_span()
        return Waiting(self._trace.set_span_in_context(span)) if span.get_span_context().is_valid else None

    def batch(self, name: str, attributes: Attributes, waiting: Sequence["tuple[Waiting, int]"]) -> "BatchSpans":
        """The spans of one call of the encoder that begins now, for these requests with their numbers of items."""
        return BatchSpans(self._trace, self._tracer, name, attributes, waiting)

    def close(self) -> None:
        """Export what is left."""
        self._provider.shutdown()


class Waiting:
    """The place of a request in a queue: its context, and when it came."""

    def __init__(self, context: "Context") -> None:
        self.context = context
        self.since_ns = time.time_ns()


class BatchSpans:
    """The spans of one batch: in the trace of each request that it waited and was encoded, and one for all requests.

    A span has one parent, so a batch of several requests is a trace of its own, which links to the spans in the traces
    of the requests, as they do to it.
    """

    def __init__(
        self, trace: Any, tracer: Any, name: str, attributes: Attributes, waiting: Sequence[tuple[Waiting, int]]
    ) -> None:
        self._trace = trace
        now = time.time_ns()
        size = sum(count for _, count in waiting)
        shared = {**attributes, "viewfinder.batch.size": size, "viewfinder.batch.requests": len(waiting)}
        self._spans = []
        for each, count in waiting:
            tracer.start_span("wait for batch", each.context, start_time=each.since_ns).end(now)
            own = {**shared, "viewfinder.batch.own_items": count}
            self._spans.append(tracer.start_span(name, each.context, attributes=own, start_time=now))
        if len(self._spans) > 1:
            links = [trace.Link(each.get_span_context()) for each in self._spans]
            batch = tracer.start_span(
                f"{name} batch", trace.set_span_in_context(trace.INVALID_SPAN), attributes=shared, links=links
            )
            for each in self._spans:
                each.add_link(batch.get_span_context())
            self._spans.append(batch)

    def end(self, error: BaseException | None = None) -> None:
        """End the spans, as failed if there was an error."""
        for each in self._spans:
            if error is not None:
                each.set_attribute("error.type", type(error).__name__)
                each.set_status(self._trace.StatusCode.ERROR)
            each.end()


class TracedThreads(ThreadPoolExecutor):
    """Threads in which the span of the caller is the current one."""

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> "Future[Any]":
        if active is None:
            return super().submit(function, *arguments, **named)
        return super().submit(copy_context().run, function, *arguments, **named)


active: Traces | None = None
"""The traces of this process; None while they are off."""


def start(provider: "TracerProvider | None" = None) -> Traces:
    """Turn traces on. Without a provider, spans are exported by OTLP over HTTP as the variables OTEL_* say.

    Raises `ModuleNotFoundError` without the packages of the extra `telemetry`.
    """
    global active
    active = Traces(provider or _exporting_provider())
    return active


def stop() -> None:
    """Turn traces off, and export what is left."""
    global active
    stopped, active = active, None
    if stopped is not None:
        stopped.close()


def current_traceparent() -> str | None:
    """The header that continues the span of the caller, who may use OpenTelemetry where viewfinder does not."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _exporting_provider() -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = Resource.create({"service.name": SERVICE_NAME, "service.version": __version__})
    provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
