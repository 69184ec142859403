"""The certificate authorities of the environment, which certify other machines."""

import functools
import ssl

import httpx

from viewfinder.errors import ConfigurationError


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Return the authorities, read once: it takes half of the time to make a client.

    Raises `ConfigurationError` if SSL_CERT_FILE or SSL_CERT_DIR cannot be used.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise authorities_error(error) from error


def authorities_error(error: OSError) -> ConfigurationError:
    """Return the error that says why no authorities could be read."""
    return ConfigurationError(f"SSL_CERT_FILE or SSL_CERT_DIR cannot be used: {error}.")
