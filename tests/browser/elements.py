"""Elements and requests of the page, for the tests in this folder."""

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, Request

from tests.browser.conftest import Visit

Visits = Callable[..., Visit]
PAGE = 40
QUERY = "/?q=image+number"


def tiles(page: Page) -> Any:
    return page.locator("#results a.tile")


def searches(page: Page) -> list[Any]:
    """The bodies of all later JSON searches, in a list that grows."""
    bodies: list[Any] = []

    def note(request: Request) -> None:
        if request.url.endswith("/v1/search"):
            bodies.append(request.post_data_json)

    page.on("request", note)
    return bodies


def module(page: Page, name: str, expression: str, argument: Any = None) -> Any:
    """The value of an expression of `it`, a module of the page, and `given`."""
    script = f"""async (given) => {{
      const it = await import(document.querySelector("script[type=module]").src.replace("app.js", "{name}"));
      return {expression};
    }}"""
    return page.evaluate(script, argument)
