"""The certificate authorities of the environment, which certify other machines."""

import functools
import os
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
        given = [f"{name} ({os.environ[name]})" for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ]
        raise ConfigurationError(
            f"{' or '.join(given) or 'The file of certificate authorities'} cannot be used: {error}. Name a file of "
            "certificates in PEM format, or unset the variable."
        ) from error
