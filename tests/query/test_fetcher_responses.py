"""The fetcher of image URLs: redirects, limits of size and time, and certificates."""

import asyncio
import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.query.fetching import TLS, Handler, Names, answer, fetcher, refusal, replying, serving
from viewfinder.query.fetcher import MAX_REDIRECTS, Address

pytestmark = pytest.mark.slow


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
