"""The fetcher of image URLs: which URLs it refuses, and that errors reveal nothing."""

import ipaddress
import socket

import pytest

from tests.query.fetching import LOOPBACK, TLS, Names, answer, fetcher, refusal, replying, serving
from viewfinder.query.fetcher import Fetcher, is_own, is_public

INSIDE = ipaddress.ip_address("10.0.0.5")


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
