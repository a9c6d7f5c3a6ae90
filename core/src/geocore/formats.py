"""Files that are not read whatever they hold, told by their names: what they are, and what to do instead."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

CAMERA_RAW: Final = frozenset(
    (
        ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25", ".kdc", ".mef", ".mos",
        ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    )
)  # fmt: skip
"""What cameras write before they make a picture of it. Many are TIFF files, of which GDAL opens a small preview."""

_UNREAD: Final = (
    ("camera raw files", "export TIFF", CAMERA_RAW),
    ("HEIF pictures", "export TIFF, PNG or JPEG", frozenset((".heic", ".heif", ".hif"))),
    ("AVIF pictures", "export TIFF, PNG or JPEG", frozenset((".avif",))),
    ("JPEG XL pictures", "export TIFF, PNG or JPEG", frozenset((".jxl",))),
    ("layered files", "export TIFF, PNG or JPEG", frozenset((".psb", ".psd", ".xcf"))),
    ("drawings", "export TIFF or PNG", frozenset((".ai", ".eps", ".svg"))),
    ("ECW and MrSID files", "convert to GeoTIFF with a program that has a licence", frozenset((".ecw", ".sid"))),
    ("archives", "unpack it and name what it holds", frozenset((".7z", ".gz", ".rar", ".tar", ".tgz", ".zip"))),
    ("films", "save frames as pictures", frozenset((".avi", ".m4v", ".mov", ".mp4"))),
)
"""What they are, what to do instead, and their endings."""


def why_unread(path: Path) -> str | None:
    """What a file is by its ending, that it is not read, and what to do; None of an ending that tells nothing.

    GDAL may be built to read some of these all the same, but never rightly what is in `CAMERA_RAW`.
    """
    ending = path.suffix.lower()
    return next((f"{kind} are not read: {remedy}" for kind, remedy, endings in _UNREAD if ending in endings), None)


def unread_among(paths: Iterable[Path]) -> str:
    """What to add to a message that something is missing: files beside it that are not read, but for hidden ones."""
    found: dict[str, list[str]] = {}
    for path in paths:
        if (reason := why_unread(path)) is not None and not path.name.startswith("."):
            found.setdefault(reason, []).append(path.name)
    return "".join(
        f"; {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {why}" for why, names in found.items()
    )
