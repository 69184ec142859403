"""The fetcher of image URLs: which URLs it fetches and refuses, and that errors reveal nothing."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from viewfinder.query.errors import AddressError
from viewfinder.query.fetcher import MAX_REDIRECTS, Address, Fetcher, is_own, is_public

LOOPBACK = ipaddress.ip_address("127.0.0.1")
INSIDE = ipaddress.ip_address("10.0.0.5")

# Trusts no authority. Loading the ones that the service trusts takes a tenth of a second.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Names:
    """A resolver with answers from a list; the last one repeats, and None means that the name does not exist."""

    def __init__(self, **names: list[str | None]) -> None:
        self.answers = {name.replace("_", "."): answers for name, answers in names.items()}
        self.lookups: list[str] = []

    async def __call__(self, name: str) -> list[Address]:
        self.lookups.append(name)
        answers = self.answers.get(name, [None])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [ipaddress.ip_address(address) for address in answer.split()]


def replying(content: bytes, *, requests: list[bytes] | None = None) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if requests is not None:
            requests.append(request)
        writer.write(content)

    return handler


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on a free port of loopback."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has closed the connection
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


def fetcher(port: int = 80, **options: Any) -> Fetcher:
    """A fetcher for which 127.0.0.1 is the only public address."""
    given = {"max_bytes": 1000, "resolve": Names(images_test=["127.0.0.1"]), "ports": {port}, "tls": TLS}
    return Fetcher(**(given | {"allowed": lambda address: address == LOOPBACK} | options))


async def refusal(fetching: Fetcher, url: str) -> AddressError:
    with pytest.raises(AddressError) as error:
        await fetching.fetch(url)
    fetching.close()
    return error.value


async def test_a_request_carries_no_proxy_cookie_or_credential_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    requests: list[bytes] = []
    async with serving(replying(answer(b"image", "200 OK", "Content-Type: text/html"), requests=requests)) as port:
        fetching = fetcher(port)
        assert await fetching.fetch(f"http://Images.TEST.:{port}/a b?c=d#e") == b"image"
        fetching.close()
    assert requests[0].split(b"\r\n") == [
        b"GET /a%20b?c=d HTTP/1.1",
        f"Host: images.test:{port}".encode(),
        b"Accept: image/*",
        b"Accept-Encoding: identity",
        b"User-Agent: viewfinder",
        b"",
        b"",
    ]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://127.0.0.1./",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://127.0.0.1.nip.test/",  # resolves to loopback
        "http://①②⑦.⓪.⓪.①/",
        "http://127。0。0。1/",
        "http://0.0.0.0/",
        "http://0/",
        "http://10.0.0.5/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://100.100.100.200/latest/meta-data/",
        "http://169.254.169.254/latest/meta-data/",
        "http://192.0.0.192/",
        "http://192.0.2.1/",
        "http://198.18.0.1/",
        "http://168.63.129.16/",
        "http://192.88.99.1/",
        "http://224.0.0.1/",
        "http://240.0.0.1/",
        "http://255.255.255.255/",
        "http://[::]/",
        "http://[::1]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::127.0.0.1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::ffff:0:127.0.0.1]/",
        "http://[64:ff9b::127.0.0.1]/",
        "http://[64:ff9b::8.8.8.8]/",
        "http://[64:ff9b:1::a00:5]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:7f00:1::]/",
        "http://[2001:db8::1]/",
        "http://[3fff::1]/",
        "http://[5f00::1]/",
        "http://[fc00::1]/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://[fe80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[2606:4700::1111%25eth0]/",
        "http://[fec0::1]/",
        "http://[ff02::1]/",
        "http://localhost/",
        "http://LOCALHOST/",
        "http://localhost./",
        "http://inside.test/",
        "http://half.inside.test/",  # one public address, one private
        "http://nothing.test/",
        "http://empty.test/",
        "http://metadata.google.internal/",
        "http://a..b/",
        "http://./",
        "http:///etc/passwd",
        "http://",
        "http://%31%32%37.0.0.1/",
        "http://exa mple.test/",
        "http://public.test\\@127.0.0.1/",
        "http://public.test%2f@127.0.0.1/",
        "http://user:secret@public.test/",
        "http://secret@public.test/",
        "http://public.test:22/",
        "http://public.test:6333/",
        "http://public.test:0/",
        "http://public.test:99999/",
        "http://public.test:http/",
        "http://public.test/\r\nX-Injected: 1",
        "http://" + "a" * 64 + ".test/",
        "http://" + "a." * 200 + "test/",
        "http://xn--/",
        "http://public.test/" + "a" * 5000,
        "https://[::1",
        "file:///etc/passwd",
        "ftp://public.test/",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "data:image/png;base64,AAAA",
        "dict://127.0.0.1:11211/",
        "//public.test/",
        "public.test",
        "javascript:alert(1)",
        "",
        "\ud800",
    ],
)
async def test_a_url_that_is_not_public_is_refused_without_connecting(url: str) -> None:
    names = Names(
        localhost=["127.0.0.1 ::1"],
        public_test=["93.184.216.34"],
        inside_test=["10.0.0.5"],
        half_inside_test=["93.184.216.34 10.0.0.5"],
        empty_test=[""],
    )
    names.answers["127.0.0.1.nip.test"] = ["127.0.0.1"]
    error = await refusal(Fetcher(max_bytes=1000, resolve=names, tls=TLS), url)
    # A connection attempt would end as `fetch_failed`.
    assert error.reason == "forbidden_address"
    assert "secret" not in error.message


async def test_localhost_of_the_system_resolver_is_refused() -> None:
    assert (await refusal(Fetcher(max_bytes=1000), "http://localhost/")).reason == "forbidden_address"


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001::200e"])
def test_internet_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
    assert not is_own(ipaddress.ip_address(address))


def test_addresses_of_this_machine_are_recognized() -> None:
    assert is_own(LOOPBACK)


async def test_a_private_name_and_an_unknown_name_give_the_same_message() -> None:
    names = Names(one_test=["10.0.0.5"], two_test=[None])
    messages = [
        (await refusal(fetcher(80, resolve=names), f"http://{name}/")).message.replace(name, "NAME")
        for name in ("one.test", "two.test")
    ]
    assert messages[0] == messages[1]


async def test_an_open_and_a_closed_private_port_give_the_same_message() -> None:
    async with serving(replying(answer(b"secret"))) as port:
        fetching = {"allowed": lambda address: False, "resolve": Names(inside_test=["127.0.0.1"])}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            closed = listener.getsockname()[1]
        errors = [await refusal(fetcher(each, **fetching), f"http://inside.test:{each}/") for each in (port, closed)]
    assert (errors[0].reason, errors[0].message) == (errors[1].reason, errors[1].message)


async def test_a_name_is_resolved_once_per_fetch() -> None:
    names = Names(images_test=["127.0.0.1", "10.0.0.5"])
    async with serving(replying(answer(b"image"))) as port:
        fetching = fetcher(port, resolve=names)
        assert await fetching.fetch(f"http://images.test:{port}/") == b"image"
        assert names.lookups == ["images.test"]
        # Now the name has a private address; the earlier public one does not count.
        assert (await refusal(fetching, f"http://images.test:{port}/")).reason == "forbidden_address"


async def test_a_name_that_becomes_private_between_redirects_is_refused() -> None:
    names = Names(images_test=["127.0.0.1", "10.0.0.5"])
    async with serving(replying(answer(b"", "302 Found", "Location: /again"))) as port:
        error = await refusal(fetcher(port, resolve=names), f"http://images.test:{port}/")
    assert error.reason == "forbidden_address"
    assert len(names.lookups) == 2


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.5/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]:{port}/",
        "//inside.test:{port}/",
        "http://images.test:1/",
        "http://user:password@images.test:{port}/",
        "file:///etc/passwd",
        "gopher://images.test:{port}/",
    ],
)
async def test_a_redirect_is_checked_like_the_first_url(location: str) -> None:
    requests: list[bytes] = []

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer(b"", "302 Found", "Location: " + location.format(port=port)))

    async with serving(redirect) as port:
        names = Names(images_test=["127.0.0.1"], inside_test=["10.0.0.5"])
        error = await refusal(fetcher(port, resolve=names), f"http://images.test:{port}/")
    assert error.reason == "forbidden_address"
    assert len(requests) == 1


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
async def test_redirects_up_to_the_maximum_are_followed(status: str) -> None:
    seen: list[bytes] = []

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).split()[1])
        last = len(seen) > MAX_REDIRECTS
        writer.write(answer(b"image") if last else answer(b"", status, f"Location: ./{len(seen)}"))

    async with serving(redirect) as port:
        fetching = fetcher(port)
        assert await fetching.fetch(f"http://images.test:{port}/a/b") == b"image"
        assert seen == [b"/a/b", b"/a/1", b"/a/2", b"/a/3"]
        fetching.close()


@pytest.mark.parametrize("location", ["Location: /again", "Location: http://[::1", "Location: \xff\xfe", "X-Other: 1"])
async def test_endless_and_broken_redirects_fail(location: str) -> None:
    async with serving(replying(answer(b"", "302 Found", location))) as port:
        error = await refusal(fetcher(port), f"http://images.test:{port}/")
    assert error.reason == "fetch_failed"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5000\r\n",
        b"",  # until the connection ends
    ],
)
async def test_an_endless_body_is_cut_off_at_the_limit(head: bytes) -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        while True:
            writer.write(bytes(1000))
            sent += 1000
            await writer.drain()
            await asyncio.sleep(0)

    async with serving(endless) as port:
        error = await refusal(fetcher(port), f"http://images.test:{port}/")
    assert (error.reason, "1,000 bytes" in error.message) == ("fetch_failed", True)


async def test_a_body_of_exactly_the_limit_is_accepted() -> None:
    async with serving(replying(answer(bytes(1000)))) as port:
        fetching = fetcher(port)
        assert await fetching.fetch(f"http://images.test:{port}/") == bytes(1000)
        fetching.close()


def dripping(first: bytes, drop: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(0.01)

    return handler


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize(
    "handler",
    [
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b"x"),
        dripping(b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n"),
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        silent,
    ],
    ids=["body", "headers", "informational", "silent"],
)
async def test_a_server_that_never_finishes_times_out(handler: Handler) -> None:
    async with serving(handler) as port:
        error = await refusal(fetcher(port, timeout_s=0.3), f"http://images.test:{port}/")
    assert error.reason == "fetch_failed"
    assert "0.3 seconds" in error.message


async def test_a_resolver_that_never_answers_times_out() -> None:
    async def resolve(name: str) -> list[Address]:
        await asyncio.Event().wait()
        return []

    error = await refusal(fetcher(80, timeout_s=0.1, resolve=resolve), "http://images.test:80/")
    assert error.reason == "fetch_failed"


@pytest.mark.parametrize(
    "content",
    [
        answer(b"", "404 Not Found"),
        answer(b"part", "206 Partial Content"),
        answer(b"", "500 Internal Server Error"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
        b"",
    ],
)
async def test_the_error_of_an_incomplete_response_names_only_the_host(content: bytes) -> None:
    async with serving(replying(content)) as port:
        error = await refusal(fetcher(port), f"http://images.test:{port}/path?signature=secret")
    assert error.reason == "fetch_failed"
    assert "images.test" in error.message
    assert "secret" not in error.message
    assert "path" not in error.message


async def test_the_second_address_is_tried_if_the_first_is_dead() -> None:
    async with serving(replying(answer(b"image"))) as port:
        names = Names(images_test=["127.0.0.2 127.0.0.1"])  # nothing listens on the first
        fetching = fetcher(port, resolve=names, allowed=lambda address: address.is_loopback)
        assert await fetching.fetch(f"http://images.test:{port}/") == b"image"
        fetching.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for images.test, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "images.test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("images.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "images.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("host", "trusted", "served"),
    [
        ("images.test", True, True),
        ("images.test.", True, True),
        ("other.test", True, False),
        ("127.0.0.1", True, False),
        ("images.test", False, False),
    ],
)
async def test_certificates_are_checked_against_the_name_in_the_url(
    certificate: Path, host: str, trusted: bool, served: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    names: list[str] = []
    context.sni_callback = lambda connection, name, _: names.append(name)
    trust = ssl.create_default_context(cafile=str(certificate)) if trusted else TLS
    async with serving(replying(answer(b"image")), context) as port:
        resolve = Names(images_test=["127.0.0.1"], other_test=["127.0.0.1"])
        fetching = fetcher(port, resolve=resolve, tls=trust)
        if served:
            assert await fetching.fetch(f"https://{host}:{port}/") == b"image"
            assert names == ["images.test"]
            fetching.close()
        else:
            assert (await refusal(fetching, f"https://{host}:{port}/")).reason == "fetch_failed"
