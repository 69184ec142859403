"""Loopback addresses, which only this machine can reach."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(url_or_host: str) -> bool:
    """Return True if a URL or a host (name or IP address) is a loopback address."""
    host = _host(url_or_host)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _host(url_or_host: str) -> str:
    if "//" not in url_or_host:
        return url_or_host.lower()
    try:
        return urlsplit(url_or_host).hostname or ""
    except ValueError:  # unbalanced brackets
        return ""
