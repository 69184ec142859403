"""Refuses parameters in an address that a route does not have: a misspelled one would be ignored."""

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from viewfinder.query.validation import unknown_name
from viewfinder.service.http.errors import HTTPError
from viewfinder.service.http.guard import is_open_path
from viewfinder.store.shown import show


async def check_parameters(request: Request) -> None:
    """Refuse unknown and repeated parameters: `Depends(check_parameters)`. The page's own are for its script."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or is_open_path(request.url.path):
        return
    known = list(_query_names(route.dependant))
    given = [name for name, _ in request.query_params.multi_items()]
    hint = "GET /docs lists the parameters of every route."
    if request.method == "POST":
        hint = "The fields of a POST request are in its body."
    for name in given:
        if name not in known:
            raise HTTPError(400, "invalid_parameter", f"{unknown_name('parameter', name, known)}", hint)
        if given.count(name) > 1:
            raise HTTPError(400, "invalid_parameter", f"The parameter {show(name)} is given twice.", "Give it once.")


def _query_names(dependant: Dependant) -> Iterator[str]:
    """The query parameters of a route and of its dependencies."""
    yield from (each.alias for each in dependant.query_params)
    for each in dependant.dependencies:
        yield from _query_names(each)
