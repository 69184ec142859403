"""The web page: the files of `viewfinder/service/page`, compressed once, under versioned URLs."""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

from viewfinder.service.search_service import SearchService

PAGE_DIRECTORY = Path(__file__).resolve().parents[2] / "page"
FILE_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX = "index.html"
IMMUTABLE = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class PageFile:
    """One file, plain and compressed."""

    media_type: str
    content: bytes
    compressed: bytes

    @classmethod
    def of(cls, name: str, content: bytes) -> "PageFile":
        return cls(FILE_TYPES[Path(name).suffix], content, gzip.compress(content, mtime=0))

    def response(self, request: Request, headers: dict[str, str]) -> Response:
        headers = headers | {"vary": "accept-encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            compressed = headers | {"content-encoding": "gzip"}
            return Response(self.compressed, media_type=self.media_type, headers=compressed)
        return Response(self.content, media_type=self.media_type, headers=headers)


@dataclass(frozen=True)
class WebPage:
    """The page's files by name.

    `version` is a hash of all files and part of their URLs, so browsers may cache them forever. Modules import each
    other by relative URLs, so a browser never mixes two versions.
    """

    files: dict[str, PageFile]
    version: str

    @classmethod
    def read(cls, directory: Path = PAGE_DIRECTORY) -> "WebPage":
        content = {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.suffix in FILE_TYPES}
        version = hashlib.sha256(b"".join(name.encode() + data for name, data in content.items())).hexdigest()[:12]
        content[INDEX] = content[INDEX].replace(b'"page/', f'"page/{version}/'.encode())
        return cls({name: PageFile.of(name, data) for name, data in content.items()}, version)


def router(service: SearchService) -> APIRouter:
    """The routes of the page. It needs no key: it contains no index data, and asks for a key if searches need one."""
    routes = APIRouter(include_in_schema=False)
    page = WebPage.read()

    @routes.get("/")
    async def index(request: Request) -> Response:
        # The only URL without a version: revalidated each time, and sent only if it has changed.
        # A weak tag: the compressed page has the same one.
        headers = {"cache-control": "no-cache", "etag": f'W/"{page.version}"'}
        if f'"{page.version}"' in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return page.files[INDEX].response(request, headers)

    @routes.get("/page/{version}/{name}")
    async def file(request: Request, version: str, name: str) -> Response:
        # Replicas of two releases may run at the same time; neither has the other's files.
        if version != page.version or name not in page.files or name == INDEX:
            raise HTTPException(404, "This version of the page has no such file. Reload the page.")
        return page.files[name].response(request, {"cache-control": IMMUTABLE})

    return routes
