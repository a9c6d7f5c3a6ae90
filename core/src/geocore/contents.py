"""A hash of all that a scene's name leads to: the file itself, the files of a list or a granule, those behind a VRT.

A list and a VRT say where pixels lie and hold none themselves: whoever goes by their text alone takes another scene for
the same. What lies behind http:// or s3:// is not fetched for it and counts by its address.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from geocore.files import sha256_file
from geocore.granules import granule_of
from geocore.locations import Location, located, shown

_SOURCES: Final = ("SourceFilename", "SourceDataset")
"""Elements of a VRT that name another file (GDAL's VRT driver; the second where it warps)."""
_ARCHIVE: Final = re.compile(r"/vsi(?:zip|gzip|tar|7z|rar)/")
_SUBDATASET: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]+:(?:\d+:)?\"?([^\"]+?)\"?(?::[^:\"/\\]*)?")
"""DRIVER:"file":part, or DRIVER:number:file."""
_MOST_XML_BYTES: Final = 1 << 28


def content_hash(location: Location) -> str:
    """SHA-256 of the content of every file of a scene, 64 hexadecimal digits; wherever they lie.

    Of one file that names no others it is `files.sha256_file`.

    Raises:
        SceneError: a list or a granule cannot be understood.
        OSError: a file cannot be read.
    """
    granule = granule_of(location)
    if granule is None:
        return _content(located(location))
    lines = [
        f"{band} {dataclasses.replace(file, path='')} {_content(file.path)}" for band, file in granule.files.items()
    ]
    return hashlib.sha256("\n".join([str(granule.reference), *lines]).encode()).hexdigest()


def _content(location: Location, above: tuple[Path, ...] = ()) -> str:
    if not isinstance(location, Path):
        return hashlib.sha256(shown(location).encode()).hexdigest()
    digest = sha256_file(location)
    if location.suffix.lower() != ".vrt" or location.stat().st_size > _MOST_XML_BYTES:
        return digest
    path = location.resolve()
    if path in above:  # it names itself, which GDAL refuses when it is read
        return digest
    behind = [_content(file, (*above, path)) if file.is_file() else "missing" for file in _named_in(path)]
    return hashlib.sha256("\n".join([digest, *behind]).encode()).hexdigest() if behind else digest


def _named_in(vrt: Path) -> Iterator[Path]:
    """Local files that a VRT names, in its order and each once."""
    try:
        texts = list(_texts(ElementTree.fromstring(vrt.read_bytes())))
    except ElementTree.ParseError:
        return  # whoever opens it says what is wrong
    seen = set()
    for text, beside in texts:
        file = _file_of(text, vrt.parent if beside else Path())
        if file is not None and file not in seen:
            seen.add(file)
            yield file


def _texts(root: ElementTree.Element) -> Iterator[tuple[str, bool]]:
    """What a VRT names, and whether that is relative to its own folder."""
    for element in root.iter():
        text = (element.text or "").strip()
        if element.tag not in _SOURCES or not text:
            continue
        if text.startswith("<VRTDataset"):  # a VRT within the VRT
            yield from _texts(ElementTree.fromstring(text))
        else:
            yield text, element.get("relativeToVRT") == "1" or element.get("relativetoVRT") == "1"


def _file_of(text: str, folder: Path) -> Path | None:
    """The local file in a name as GDAL takes it, which may be part of it; None where it is remote or no file."""
    if "/vsicurl" in text or "/vsis3" in text or "://" in text:
        return None
    plain = folder / text
    if plain.is_file():
        return plain
    part = _SUBDATASET.fullmatch(text)
    inner = folder / _ARCHIVE.sub("", text if part is None else part[1])
    found = next((path for path in (inner, *inner.parents) if path.is_file()), None)
    return plain if found is None else found
