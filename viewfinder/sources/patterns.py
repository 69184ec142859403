"""Sources and their include and exclude patterns."""

import functools
import re
from dataclasses import dataclass

from viewfinder.errors import ConfigurationError
from viewfinder.sources.skips import SkipReason, skip_by_name
from viewfinder.sources.tables import table_format
from viewfinder.sources.uris import bucket_and_key, composed

# Files that accompany images and are not listed, as tables are. All other objects are: their content decides.
NOT_IMAGES = (".txt", ".json", ".json.gz", ".txt.gz")


@dataclass(frozen=True)
class Patterns:
    """Selects the objects of a source: those that match an `include` pattern, if there is any, and no `exclude`.

    A pattern without `/` is matched against the last part of a key; one with `/` against the whole key relative to the
    source (in a manifest file: the whole key). `*` and `?` match within a part, `**` across parts, `[ab]` and `[!ab]`
    match one character. A leading `/` anchors a pattern at the source, a trailing `/` matches everything below.
    Matching is case-sensitive; composed and decomposed letters (Unicode's NFC and NFD) are the same.
    Raises `ConfigurationError` for an empty or invalid pattern.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in self.include + self.exclude:
            try:
                _expression(pattern)
            except re.error as error:
                raise ConfigurationError(f"The pattern {pattern!r} is invalid: {error}.") from error
            if not pattern:
                raise ConfigurationError("--include and --exclude take a pattern such as '*.jpg', not an empty string.")

    def accept(self, relative: str) -> bool:
        """Return True for a key, relative to the source, that the patterns select."""
        included = not self.include or any(_matches_glob(pattern, relative) for pattern in self.include)
        return included and not any(_matches_glob(pattern, relative) for pattern in self.exclude)


@dataclass(frozen=True)
class Source:
    """A source by its canonical URI, with the patterns that apply to it."""

    uri: str
    patterns: Patterns

    @property
    def is_manifest(self) -> bool:
        """True for a table of URIs, a file or a directory of part files; False for a prefix, a directory, an image."""
        return table_format(self.uri) is not None

    def holds(self, uri: str) -> bool:
        """Return True if this source, a prefix, lists the object `uri`."""
        if uri == self.uri:
            return True
        relative = self._relative(uri)
        if relative is None:
            return False
        # A listing skips hidden directories; another source may name one of them.
        if uri.startswith("file://") and any(part.startswith(".") for part in relative.split("/")):
            return False
        accompanies = table_format(relative) is not None or relative.lower().endswith(NOT_IMAGES)
        return not accompanies and self.patterns.accept(relative)

    def skips(self, uri: str) -> SkipReason | None:
        """Return why this source, a prefix that holds `uri`, does not index it, or None. An object that it names is."""
        relative = self._relative(uri)
        return None if relative is None else skip_by_name(relative)

    def _relative(self, uri: str) -> str | None:
        """Return the key of an object relative to this prefix, None if it is not below it."""
        root = self.uri if self.uri.endswith("/") else f"{self.uri}/"
        if not uri.startswith(root):
            return None
        relative = uri.removeprefix(root)
        if uri.startswith("file://"):
            return bucket_and_key(f"file:///{relative}")[1].removeprefix("/")  # patterns are written unescaped
        return relative


def _matches_glob(pattern: str, relative: str) -> bool:
    subject = relative if "/" in pattern else relative.rpartition("/")[2]
    return _expression(pattern).fullmatch(composed(subject)) is not None


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    anchored = composed(pattern).removeprefix("/")
    whole = f"{anchored}**" if anchored.endswith("/") else anchored
    wildcards = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^]]*\])", whole)
    return re.compile(
        "".join(wildcards.get(part) or _character_class(part) or re.escape(part) for part in parts), re.DOTALL
    )


def _character_class(part: str) -> str:
    if not (part.startswith("[") and part.endswith("]") and len(part) > 2):
        return ""
    inside = part[1:-1].replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]").replace("^", r"\^")
    return f"(?!/)[^{inside[1:]}]" if inside.startswith("!") else f"(?!/)[{inside}]"
