"""Index and search images in a few lines of Python: through a running service, or in this process.

engine = ImageSearchEngine(mode="local")
engine.index_directory("photos", descriptions={"cat.jpg": "our cat on the sofa"})
print_results(engine.search("a cat", top_k=5))
"""

import importlib
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, Unpack, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from viewfinder.client import Client, Hit, SearchOptions, SearchRequest, SearchResult, Stats
from viewfinder.client.requests import next_page
from viewfinder.errors import ConfigurationError
from viewfinder.extras import packages_of
from viewfinder.settings import Settings
from viewfinder.terminal import printable, printable_line
from viewfinder.wording import counted

if TYPE_CHECKING:
    from viewfinder.engine.local import IndexResult

AnyPath = str | Path

_PATHS_SHOWN = 20


class ImageSearchEngine:
    """Index and search images. Use it in a `with` statement, or close it after use.

    `mode="service"` uses the service at `server`, and of it `index`, which is built by the index job. `mode="local"`
    needs neither a service nor Ray: it opens the embedded store in `data_dir` (or uses the Qdrant server of the
    settings) and encodes in this process. `model_name` defaults to the model of `index`, or for a new index to that of
    the settings. Other arguments default to the settings.

    Both modes answer the same searches with the same hits and refuse the same ones: local mode with `QueryError` and
    `FilterError`, a service with `ServiceError`. Raises `ConfigurationError` for a wrong argument or a missing package,
    `StoreBusyError` if a program that cannot share the store holds it, and `ModelMismatchError` if `index` was made by
    another model.
    """

    def __init__(
        self,
        mode: Literal["service", "local"] = "service",
        *,
        server: str | None = None,
        api_key: str | None = None,
        model_name: str | None = None,
        data_dir: AnyPath | None = None,
        index: str | None = None,
    ) -> None:
        self._closed = False
        if mode == "service":
            if (model_name, data_dir) != (None, None):
                raise ConfigurationError("model_name and data_dir are for mode='local'; a service has its own.")
            self._opened: _Mode = _Remote(Client.of(Settings.load(server=server, api_key=api_key, index=index)))
        elif mode == "local":
            self._opened = _open_local(Settings.load(data_dir=data_dir, index=index), model_name)
        else:
            raise ConfigurationError(f"Unknown mode {mode!r}; use 'service' or 'local'.")

    def index_directory(self, path: AnyPath, descriptions: Mapping[str, str] | None = None) -> "IndexResult":
        """Index all images under a directory or an `s3://` prefix; unchanged ones are skipped.

        A key of `descriptions` is a URI, an absolute path, or a path relative to the directory. Descriptions are
        searched with `target="caption"`. Unreadable images are listed in the result and do not raise.
        """
        return self._backend.index_directory(path, descriptions or {})

    def index_images(self, paths: Iterable[AnyPath], descriptions: Mapping[str, str] | None = None) -> "IndexResult":
        """Index single files. A key of `descriptions` is one of `paths`, or its last part if that is unique.

        Raises `SourceError` if a file does not exist, before anything is indexed.
        """
        paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
        return self._backend.index_images(paths, descriptions or {})

    def search(self, text: str | None = None, /, top_k: int = 10, **request: Unpack[SearchRequest]) -> SearchResult:
        """Find the `top_k` best matches.

        Takes the options of `Client.search` in both modes: `image=`, `image_url=`, `id=`, `vector=` or weighted
        `queries=` instead of a text; `target`, `rank`, `weights`, `filter`, `group_by`, `group_size`, `diversity`,
        `collapse`, `collapse_threshold`, `order_by`, `min_relevance`, `score_threshold`, `offset` and `cursor`. Without
        a query, `filter` or `order_by` list images.
        """
        return self._backend.search(_request(text, top_k, request))

    def search_pages(
        self, text: str | None = None, /, top_k: int = 10, **request: Unpack[SearchRequest]
    ) -> Iterator[SearchResult]:
        """Yield all hits in pages of `top_k`; every image appears once."""
        following: SearchRequest | None = _request(text, top_k, request)
        while following is not None:
            page = self._backend.search(following)
            yield page
            following = next_page(following, page.cursor)

    def search_batch(
        self, searches: Iterable[str | SearchRequest], top_k: int = 10, **options: Unpack[SearchOptions]
    ) -> list[SearchResult]:
        """One result for each search, in order. A search is a text or a mapping as in `Client.search_batch`.

        Raises `BatchError`, which has the results of the others, if one of them is refused.
        """
        texts = [{"text": each} if isinstance(each, str) else each for each in searches]
        defaults = {"limit": top_k, **options}
        return self._backend.search_batch([cast(SearchRequest, {**defaults, **each}) for each in texts])

    def get_stats(self) -> Stats:
        """Model, collection and number of points."""
        return self._backend.stats()

    def close(self) -> None:
        """Close the store or the connections; the engine cannot be used afterwards."""
        if not self._closed:
            self._closed = True
            self._opened.close()

    def __enter__(self) -> Self:
        _ = self._backend  # raises where it is closed
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def _backend(self) -> "_Mode":
        if self._closed:
            raise RuntimeError("This ImageSearchEngine is closed. Make another one.")
        return self._opened


def print_results(
    results: SearchResult | Iterable[SearchResult], console: Console | None = None, errors: Console | None = None
) -> None:
    """Print each result as a table of hits, and warnings on standard error. A list without a query has no scores."""
    console, errors = console or Console(), errors or Console(stderr=True)
    for result in [results] if isinstance(results, SearchResult) else results:
        console.print(_hits_table(result) if result.hits else "Nothing found.")
        for warning in result.warnings:
            errors.print(Text(f"warning: {printable(warning)}"), soft_wrap=True)


def _hits_table(result: SearchResult) -> Table:
    columns: list[Column | str] = ["score", "relevance", Column("image", overflow="fold"), "caption", "size"]
    collapses = any(hit.collapsed for hit in result.hits)
    table = Table(*(["group"] if result.groups else []), *columns, *(["similar"] if collapses else []), box=SIMPLE_HEAD)
    groups = [([_cell(str(group.value))], group.hits) for group in result.groups or ()] or [([], result.hits)]
    for name, hits in groups:
        for hit in hits:
            size = f"{hit.width} x {hit.height}" if hit.width and hit.height else ""
            similar = [f"+{hit.collapsed}" if hit.collapsed else ""] if collapses else []
            table.add_row(*name, *grades(hit), _cell(hit.uri), _cell(hit.caption or ""), size, *similar)
    return table


def grades(hit: Hit) -> tuple[str, str]:
    """Score and relevance of a hit as text, empty where it has none."""
    # Rounded down, so that 100% means a score above all unrelated pairs.
    relevance = "" if hit.relevance is None else f"{math.floor(hit.relevance * 100)}%"
    return "" if hit.score is None else f"{hit.score:.3f}", relevance


def _cell(text: str) -> Text:
    """Text as it is: no markup, no emoji for `:cat:`, no escape sequences."""
    return Text(printable_line(text))


class _Mode(Protocol):
    def index_directory(self, path: AnyPath, descriptions: Mapping[str, str]) -> "IndexResult": ...

    def index_images(self, paths: Sequence[AnyPath], descriptions: Mapping[str, str]) -> "IndexResult": ...

    def search(self, request: SearchRequest) -> SearchResult: ...

    def search_batch(self, requests: Sequence[SearchRequest]) -> list[SearchResult]: ...

    def stats(self) -> Stats: ...

    def close(self) -> None: ...


class _Remote:
    """A running service. Its index is built by the index job, not through the service."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def index_directory(self, path: AnyPath, descriptions: Mapping[str, str]) -> "IndexResult":
        raise _use_the_command([path], descriptions)

    def index_images(self, paths: Sequence[AnyPath], descriptions: Mapping[str, str]) -> "IndexResult":
        raise _use_the_command(paths, descriptions)

    def search(self, request: SearchRequest) -> SearchResult:
        return self._client.search(**request)

    def search_batch(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        return self._client.search_batch(requests)

    def stats(self) -> Stats:
        return self._client.stats()

    def close(self) -> None:
        self._client.close()


def _request(text: str | None, top_k: int, request: Mapping[str, Any]) -> SearchRequest:
    return cast(SearchRequest, {"limit": top_k, **request, **({} if text is None else {"text": text})})


def _open_local(settings: Settings, model_name: str | None) -> _Mode:
    with packages_of("local", "ImageSearchEngine(mode='local')"):
        local = importlib.import_module("viewfinder.engine.local")
    backend: _Mode = local.LocalIndex.open(settings, model_name)
    return backend


def _use_the_command(paths: Sequence[AnyPath], descriptions: Mapping[str, str]) -> ConfigurationError:
    command = ["viewfinder", "index"]
    note = ""
    if len(paths) > _PATHS_SHOWN:
        command.append("images.csv")
        note = f"images.csv is a file with your {counted(len(paths), 'path')} in a column 'uri'."
    else:
        for path in paths:
            text = str(path)
            command.append(text if "://" in text else str(Path(text).expanduser().absolute()))
    if descriptions:
        command += ["--captions", "captions.json"]
        note += " captions.json contains your descriptions as {path: text}."
    return ConfigurationError(
        "ImageSearchEngine does not index through a service. Use Client.index_images, or run this where the store of "
        "the service can be reached:\n"
        f"  {shlex.join(command)}\n{note}".rstrip()
    )
