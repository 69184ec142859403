"""Objects that are listed and not indexed, and why. They are no failures."""

from typing import Literal, get_args

SkipReason = Literal["archived", "not_an_image", "hidden", "video", "empty", "taken_down"]
SKIP_REASONS: tuple[SkipReason, ...] = get_args(SkipReason)
# Of these the content decides. They are recorded with the failures, though they are none, so that the same content is
# not read again.
CONTENT_SKIPS = frozenset({"not_an_image", "video", "empty"})

# Storage classes whose objects cannot be read before they are restored. The last two are Alibaba's. Not all archives:
# Google serves "ARCHIVE" at once and Tencent does not, Yandex serves "COLD" and Huawei does not, and a setting of the
# bucket decides for Alibaba's "Archive". These are read, and the answer tells.
ARCHIVE_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE", "ColdArchive", "DeepColdArchive"})

_VIDEO_SUFFIXES = (
    *(".3g2", ".3gp", ".3gpp", ".amv", ".asf", ".avi", ".braw", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265"),
    *(".hevc", ".insv", ".lrv", ".m1v", ".m2p", ".m2ts", ".m2v", ".m4v", ".mkv", ".mod", ".mov", ".mp4", ".mpe"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".r3d", ".rm", ".rmvb", ".swf", ".tod", ".vob", ".webm"),
    *(".wmv", ".y4m"),
)
# Files and folders that systems and tools leave behind, in lower case. Names that begin with a dot need no entry.
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "_success"})
_SYSTEM_FOLDERS = frozenset(
    {
        *("__macosx", "$recycle.bin", "recycler", "system volume information", "lost+found"),
        *("@eadir", "#recycle", "#snapshot"),  # Synology
        *("@recycle", "@recently-snapshot"),  # QNAP
        "~snapshot",  # NetApp
    }
)
_FOLDER_MARKER = "_$folder$"  # Hadoop's


def skip_by_name(relative: str) -> SkipReason | None:
    """Return why an object with this key, relative to its source, is no image, or None if the name does not say it."""
    *folders, name = (part.lower() for part in relative.split("/"))
    if _is_hidden(name) or name in _SYSTEM_FILES or name.endswith(_FOLDER_MARKER):
        return "hidden"
    if any(_is_hidden(folder) or folder in _SYSTEM_FOLDERS for folder in folders):
        return "hidden"
    return "video" if name.endswith(_VIDEO_SUFFIXES) else None


def _is_hidden(part: str) -> bool:
    return part.startswith(".") and part not in (".", "..")
