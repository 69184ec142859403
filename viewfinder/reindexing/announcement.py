"""Word from the service that it has followed a switch: it does so by itself, and here somebody looks."""

import logging
import time

import httpx

logger = logging.getLogger("viewfinder.reindex")

TIMEOUT_S = 30.0
_POLL_S = 0.5


def tell(server: str, collection: str, *, timeout_s: float = TIMEOUT_S) -> bool:
    """Ask the service until it names `collection`, for so long; never fails, because the switch is done."""
    began = time.monotonic()
    said = ""
    while time.monotonic() - began < timeout_s:
        try:
            answer = httpx.get(f"{server.rstrip('/')}/readyz", timeout=5.0).json()
            said = str(answer.get("problem") or answer.get("collection") or "")
            if answer.get("collection") == collection:
                logger.info("The service at %s answers from it after %.1f s", server, time.monotonic() - began)
                return True
        except httpx.TransportError as error:
            logger.info("No service answers at %s (%s); running ones find the switch by themselves", server, error)
            return False
        except (ValueError, AttributeError):  # whatever listens there, it is no service of ours
            return False
        time.sleep(_POLL_S)
    logger.warning("The service at %s has not followed within %g s; it says %r", server, timeout_s, said)
    return False
