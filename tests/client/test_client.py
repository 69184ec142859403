"""The clients against servers with planned failures, and with invalid addresses and options."""

import contextlib
import inspect
import json
import pickle
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from tests.client.conftest import Ask, Planned, Scripted, found, refusal
from viewfinder import AsyncClient, Client
from viewfinder.errors import ConfigurationError, ServiceError, ServiceUnavailableError
from viewfinder.sources.uris import point_id

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "passing",
    [
        refusal(503),
        refusal(502),
        refusal(504),
        refusal(429),
        Planned(503, b"full"),
        Planned(500, b"<html>Internal Server Error</html>"),
        Planned(500),
        Planned(500, b'{"detail": "no replica"}'),
        Planned(None),
    ],
    ids=["503", "502", "504", "429", "503 of a proxy", "500 of a proxy", "empty 500", "other 500", "connection lost"],
)
def test_a_transient_error_is_retried_with_the_same_request_id(ask: Ask, passing: Planned) -> None:
    script = Scripted([passing, passing, found("a cat")])
    with script.listening() as server:
        assert ask(server, "search", "a cat").hits[0].caption == "a cat"
    assert script.bodies == [{"text": "a cat"}] * 3
    assert len({headers["x-request-id"] for headers in script.requests}) == 1


def test_a_takedown_is_retried_if_its_answer_is_lost(ask: Ask) -> None:
    id_ = point_id("s3://b/k")
    done = Planned(200, json.dumps({"id": id_, "uri": "s3://b/k", "removed": False}).encode())
    script = Scripted([Planned(None), done])
    with script.listening() as server:
        assert ask(server, "take_down", "s3://b/k").removed is False
    assert script.bodies == [f"/v1/images/{id_}?uri=s3%3A%2F%2Fb%2Fk"] * 2


def test_vectors_of_two_models_are_not_mixed(ask: Ask) -> None:
    def answer(body: dict[str, Any]) -> Planned:
        vectors = [{"vector": [1.0], "cut": 0}] * len(body["texts"])
        told = {"texts": vectors, "images": [], "model": "m", "fingerprint": str(len(vectors)), "dimension": 1}
        return Planned(200, json.dumps(told).encode())

    with Scripted(answer).listening() as server, pytest.raises(ServiceUnavailableError, match="two models") as raised:
        ask(server, "embed", ["a"] * 65)
    assert raised.value.code == "model_changed"


def test_the_span_of_the_caller_is_continued(ask: Ask) -> None:
    tracer = TracerProvider().get_tracer("test")
    script = Scripted([found("a cat")] * 4)
    with script.listening() as server:
        ask(server, "search", "a cat")
        with tracer.start_as_current_span("caller") as span:
            ask(server, "search", "a cat")
            ask(server, "search_many", ["a cat", "a dog"])
    untraced, *traced = [headers.get("traceparent") for headers in script.requests]
    context = span.get_span_context()
    assert untraced is None
    assert [each[:53] for each in traced] == [f"00-{context.trace_id:032x}-{context.span_id:016x}-"[:53]] * 3


def test_large_images_are_split_over_several_requests(ask: Ask) -> None:
    def answer(body: dict[str, Any]) -> Planned:
        hits = [json.loads(found(str(len(each["image"]))).body) for each in body["searches"]]
        return Planned(200, json.dumps({"results": hits}).encode())

    script = Scripted(answer)
    with script.listening() as server:
        results = ask(server, "search_batch", [{"image": b"x" * 3_000_000}] * 5)
    assert [len(body["searches"]) for body in script.bodies] == [2, 2, 1]
    assert len(results) == 5


def test_an_unencrypted_api_key_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    Client("http://127.0.0.1:1", api_key="hush").close()
    Client("https://example.org", api_key="hush").close()
    assert caplog.messages == []
    Client("http://example.org", api_key="hush").close()
    assert caplog.messages == ["The API key is sent to http://example.org unencrypted; use https."]


@pytest.mark.parametrize("final", [refusal(500, "internal_error"), refusal(400, "invalid_filter")])
def test_a_permanent_error_is_not_retried(ask: Ask, final: Planned) -> None:
    script = Scripted([final])
    with script.listening() as server, pytest.raises(ServiceError, match=r"Not now\. Wait\. \(\w+, request abc\)"):
        ask(server, "search", "a cat")
    assert len(script.bodies) == 1


def test_the_error_after_all_retries_has_their_number(ask: Ask) -> None:
    script = Scripted([refusal(503)] * 3)
    with script.listening() as server, pytest.raises(ServiceUnavailableError, match="Tried 3 times"):
        ask(server, "search", "a cat", client={"retries": 2})


@pytest.mark.parametrize("retry_after", ["3600", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_pause_beyond_the_deadline_is_not_started(ask: Ask, retry_after: str) -> None:
    script = Scripted([refusal(503, retry_after=retry_after)])
    with script.listening() as server, pytest.raises(ServiceUnavailableError, match=r"Not now\. Wait\."):
        ask(server, "search", "a cat", client={"timeout_s": 30})
    assert len(script.bodies) == 1


@pytest.mark.parametrize("retry_after", ["soon", "-1", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 1999 23:59:59"])
def test_an_invalid_retry_after_is_ignored(ask: Ask, retry_after: str) -> None:
    with Scripted([refusal(503, retry_after=retry_after), found("a cat")]).listening() as server:
        assert ask(server, "search", "a cat").hits[0].caption == "a cat"


@pytest.mark.parametrize("first_bytes", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"])
def test_an_endless_answer_ends_at_the_deadline(ask: Ask, first_bytes: bytes) -> None:
    stop = threading.Event()

    def trickle(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            connection.sendall(first_bytes)
            for _ in range(500):  # without a deadline it would end one day, so that the test fails and does not hang
                if stop.wait(0.02):
                    return
                if first_bytes:
                    connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, args=(listener,))
        thread.start()
        try:
            with pytest.raises(ServiceUnavailableError, match=r"did not answer within 0\.3 s") as raised:
                ask(f"http://127.0.0.1:{listener.getsockname()[1]}", "search", "a cat", client={"timeout_s": 0.3})
        finally:
            stop.set()
            thread.join()
    assert raised.value.code == "timeout"


def test_an_unreachable_service_names_the_command_to_start_it(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        server = f"http://127.0.0.1:{unused.getsockname()[1]}"
    assert ask(server, "healthy") is False
    assert ask(server, "ready") is False
    with pytest.raises(ServiceUnavailableError, match=r"cannot be reached.*viewfinder serve") as raised:
        ask(server, "search", "a cat", client={"retries": 0})
    assert raised.value.code == "unreachable"


def test_the_key_is_sent_as_a_bearer_token_and_never_shown(ask: Ask) -> None:
    script = Scripted([refusal(401, "unauthorized"), found("a cat")])
    with script.listening() as server:
        with pytest.raises(ServiceError) as raised:
            ask(server, "search", "a cat", client={"api_key": "hush-hush"})
        ask(server, "search", "a cat")
    assert [headers["authorization"] for headers in script.requests] == ["Bearer hush-hush", None]
    assert "hush" not in str(raised.value) + repr(raised.value)


@pytest.mark.parametrize(
    ("planned", "code"),
    [
        (Planned(200, b"<html>Jupyter</html>"), "no_viewfinder"),
        (Planned(200, b'{"hits": 3}'), "no_viewfinder"),
        (Planned(404, b"<html>"), "http_404"),
        (Planned(404, b"{}"), "http_404"),
        (Planned(307, b"", {"location": "http://elsewhere/"}), "http_307"),
    ],
)
def test_an_answer_from_another_program_is_recognized(ask: Ask, planned: Planned, code: str) -> None:
    with Scripted([planned]).listening() as server, pytest.raises(ServiceError, match="Check the address") as raised:
        ask(server, "search", "a cat")
    assert raised.value.code == code
    assert not isinstance(raised.value, ServiceUnavailableError)


@pytest.mark.parametrize("server", ["localhost:8000", "ftp://host", "http://", "", "http://h:port", "http://h/?q=1"])
def test_an_invalid_address_is_refused(server: str) -> None:
    with pytest.raises(ConfigurationError, match="server"):
        Client(server)


def test_a_password_in_the_address_is_not_shown() -> None:
    with Client("http://me:hush@127.0.0.1:1/prefix/", retries=0) as client, pytest.raises(ServiceError) as raised:
        client.stats()
    assert "http://127.0.0.1:1/prefix" in str(raised.value)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("options", [{"timeout_s": 0}, {"retries": -1}, {"api_key": "schlüssel"}, {"api_key": "a\nb"}])
def test_invalid_client_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Client(**options)


def test_an_error_can_be_pickled() -> None:
    error = ServiceUnavailableError("no_index", "Not yet.", "Wait.", "abc", 503)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ServiceUnavailableError
    assert vars(again) == vars(error)


@pytest.mark.parametrize(
    "program",
    [
        "import viewfinder.client",
        "from viewfinder import Client, ImageSearchEngine, print_results",
        "import viewfinder.cli.main",
    ],
)
def test_the_client_imports_no_heavy_package(program: str) -> None:
    heavy = ("numpy", "torch", "ray", "qdrant_client", "fastapi", "PIL", "pyarrow", "boto3")
    program = f"import sys; {program}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_batch_is_divided_by_the_hits_that_it_may_return(ask: Ask) -> None:
    """The service refuses a batch that may return more than 2,000 hits."""

    def answer(body: dict[str, Any]) -> Planned:
        hits = [json.loads(found(each["text"]).body) for each in body["searches"]]
        return Planned(200, json.dumps({"results": hits}).encode())

    script = Scripted(answer)
    with script.listening() as server:
        results = ask(server, "search_batch", [str(number) for number in range(25)], limit=200)
    assert [result.hits[0].caption for result in results] == [str(number) for number in range(25)]
    assert [sum(each["limit"] for each in body["searches"]) for body in script.bodies] == [1800, 1800, 1400]


def test_a_proxy_is_not_asked_for_a_service_on_this_machine(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: HTTP_PROXY caught the calls."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with Scripted(lambda body: found(body["text"])).listening() as server:
        assert ask(server, "search", "a cat").hits[0].caption == "a cat"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "socks://127.0.0.1:1/", "http://127.0.0.1:port"])
def test_a_proxy_that_cannot_be_used_is_named(kind: type, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Regression: a traceback of httpx.
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(
        ConfigurationError, match=r"ALL_PROXY.* cannot be used: .* unset the variable for this program\."
    ):
        kind("https://search.example.org")
    kind("http://127.0.0.1:8000")  # without the proxy


def public(kind: type) -> dict[str, inspect.Signature]:
    """The signatures of the public methods, without their return types."""
    methods = {name: each for name, each in inspect.getmembers(kind, callable) if not name.startswith("_")}
    return {
        name: inspect.signature(each).replace(return_annotation=inspect.Signature.empty)
        for name, each in methods.items()
    }


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    threads, loop = public(Client), public(AsyncClient)
    assert threads.pop("close") == loop.pop("aclose")
    assert threads == loop
    assert len(threads) > 12
    assert inspect.signature(Client) == inspect.signature(AsyncClient)
    iterated = {name for name in loop if inspect.isasyncgenfunction(getattr(AsyncClient, name))}
    assert iterated == {name for name in threads if inspect.isgeneratorfunction(getattr(Client, name))}
    assert all(inspect.iscoroutinefunction(getattr(AsyncClient, name)) for name in loop.keys() - iterated - {"of"})


def test_both_clients_read_all_pages_and_retry_one(ask: Ask) -> None:
    def page(caption: str, cursor: str | None) -> Planned:
        return Planned(200, json.dumps({**json.loads(found(caption).body), "cursor": cursor}).encode())

    script = Scripted([page("one", "a"), Planned(500, b"bare"), page("two", "b"), refusal(503), page("three", None)])
    with script.listening() as server:
        pages = ask(server, "search_pages", "a cat", limit=1)
    assert [hit.caption for each in pages for hit in each] == ["one", "two", "three"]
    assert [body.get("cursor") for body in script.bodies] == [None, "a", "a", "b", "b"]
