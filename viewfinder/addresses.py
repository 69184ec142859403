"""Loopback addresses, which only this machine can reach, and the proxy that leads to others."""

import ipaddress
import urllib.request
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


def proxy_problem(error: Exception) -> str | None:
    """Return what is wrong with the proxy of the environment, if an HTTP client could not be made because of it."""
    is_invalid = type(error).__name__ == "InvalidURL"  # httpx's, which other HTTP libraries have too
    if not is_invalid and not (isinstance(error, (ImportError, ValueError)) and "proxy" in str(error).lower()):
        return None
    given = urllib.request.getproxies_environment()
    proxies = {f"{each.upper()}_PROXY": given[each] for each in ("all", "http", "https") if given.get(each)}
    unusual = {name for name, url in proxies.items() if "://" in url and not url.startswith(("http://", "https://"))}
    names = " and ".join(sorted(unusual or proxies)) or "The proxy of the environment"
    return (
        f"{names} cannot be used: {str(error).rstrip('.')}. Name a proxy that begins with http:// or https://, or "
        "unset the variable for this program."
    )


def _host(url_or_host: str) -> str:
    if "//" not in url_or_host:
        return url_or_host.lower()
    try:
        return urlsplit(url_or_host).hostname or ""
    except ValueError:  # unbalanced brackets
        return ""
