"""Objects that are no images by their names."""

import pytest

from viewfinder.sources.patterns import Patterns, Source
from viewfinder.sources.skips import skip_by_name


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("a.jpg", None),
        ("deep/a.jpg", None),
        ("noext", None),
        ("a.mp4.jpg", None),
        ("./a.jpg", None),
        ("../a.jpg", None),
        ("thumbs/a.jpg", None),
        ("mov/a.jpg", None),
        ("mp4", None),
        ("._a.jpg", "hidden"),
        ("deep/._a.jpg", "hidden"),
        (".DS_Store", "hidden"),
        (".thumbnails/a.jpg", "hidden"),
        ("Thumbs.db", "hidden"),
        ("a/THUMBS.DB", "hidden"),
        ("desktop.ini", "hidden"),
        ("__MACOSX/a.jpg", "hidden"),
        ("zip/__MACOSX/._a.jpg", "hidden"),
        ("@eaDir/a.jpg", "hidden"),
        ("$RECYCLE.BIN/a.jpg", "hidden"),
        *((f"photos/{folder}/a.jpg", "hidden") for folder in ("@Recycle", "#recycle", "RECYCLER", "lost+found")),
        ("~snapshot/nightly/a.jpg", "hidden"),
        ("recycled/a.jpg", None),
        ("a_$folder$", "hidden"),
        ("x.parquet/_SUCCESS", "hidden"),
        ("a.mp4", "video"),
        ("deep/A.MOV", "video"),
        ("a.webm", "video"),
        *((f"a{suffix}", "video") for suffix in (".3gpp", ".MOD", ".R3D", ".h265", ".y4m")),
        ("a.ts", None),
        (".hidden/a.mp4", "hidden"),
    ],
)
def test_names_of_systems_and_videos_are_skipped(key: str, reason: str | None) -> None:
    assert skip_by_name(key) == reason


def test_a_source_that_names_a_hidden_folder_or_a_video_wants_it() -> None:
    assert Source("s3://b", Patterns()).skips("s3://b/.x/a.jpg") == "hidden"
    assert Source("s3://b/.x", Patterns()).skips("s3://b/.x/a.jpg") is None
    assert Source("s3://b/.x/._a.jpg", Patterns()).skips("s3://b/.x/._a.jpg") is None
    assert Source("file:///p/.cache", Patterns()).skips("file:///p/.cache/Thumbs.db") == "hidden"
