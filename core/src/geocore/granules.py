"""Scenes that come as several files: Sentinel-2 SAFE folders, granules of HLS, and what a YAML file lists.

A list of one's own names the file of each band, and the band whose grid is the scene's (else the finest one is):

    reference: red
    bands:
      red: {file: image.tif, band: B4, scale: 0.0001}
      height: dem.tif
      clouds: {file: clouds.tif, interpolation: nearest}

Its files lie in its own folder, or below a stated root (`geocore.roots`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from geocore.declarations import Declaration
from geocore.documents import read_text, read_yaml
from geocore.errors import SceneError
from geocore.locations import Location, is_remote, located
from geocore.roots import check_named
from geocore.stacks import BandFile

_HLS: Final = re.compile(r"(HLS\.[SL]30\.T\d{2}[A-Z]{3}\.\d{7}T\d{6}\.v\d+\.\d+)\.(B\d{2}|B8A|Fmask)\.tif")
_HLS_THERMAL: Final = {"L30": ("B10", "B11"), "S30": ()}
_SAFE: Final = re.compile(r".*_(B\d{2}|B8A|SCL)(?:_(\d{2})m)?\.jp2")
_SAFE_BANDS: Final = (
    "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12",
)  # fmt: skip
"""In the order of `band_id` in the metadata."""
_HLS_SAYS: Final = "format HLS"
_SAFE_SAYS: Final = "product metadata"


@dataclass(frozen=True, slots=True)
class Granule:
    """The files of one scene."""

    name: str
    files: Mapping[str, BandFile]
    """Band name -> where it lies, in the order of the names; mask bands among them, with interpolation `nearest`."""
    reference: str | None = None
    """Band whose grid is the scene's; None: the finest of those that are read."""


def granule_of(location: Location) -> Granule | None:
    """The granule at a path: a SAFE folder, a folder of one HLS granule, what its files begin with, or a YAML list.

    `scenes/HLS.S30.T10TGS.2022285T190401.v2.0` names the granule whose files lie side by side with others in `scenes`.

    Returns:
        None where the path is something else.

    Raises:
        SceneError: a SAFE folder lacks its images, or does not say what its numbers mean; a list is not understood.
    """
    if is_remote(location):
        return None
    path = Path(location)
    if path.is_dir():
        if path.suffix == ".SAFE" or any(path.glob("MTD_MSIL[12]?.xml")):
            return _safe(path)
        found = list(_hls(path).values())
        alone = len(found) == 1 and all(file.name.startswith(f"{found[0].name}.") for file in path.glob("*.tif"))
        return found[0] if alone else None
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return _listed(path)
    return None if path.exists() or not path.parent.is_dir() else _hls(path.parent).get(path.name)


def is_granule(location: Location) -> bool:
    """Whether there is a granule at a path, be it one that lacks something."""
    try:
        return granule_of(location) is not None
    except SceneError:
        return True


def granules_in(folder: Path) -> list[Path]:
    """Paths of the granules in a folder, as `granule_of` takes them, by name; also of those that lack something."""
    if is_granule(folder):
        return [folder]
    flat = [folder / name for name in _hls(folder)]
    return sorted([*flat, *(path for path in folder.iterdir() if path.is_dir() and is_granule(path))])


def _hls(folder: Path) -> dict[str, Granule]:
    """Granules of HLS whose files lie in a folder (product user guide, version 2.0)."""
    bands: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("HLS.*.tif")):
        if named := _HLS.fullmatch(path.name):
            bands.setdefault(named[1], {})[named[2]] = path
    return {
        name: Granule(name, {band: _hls_file(path, band) for band, path in own.items()}) for name, own in bands.items()
    }


def _hls_file(path: Path, band: str) -> BandFile:
    if band == "Fmask":
        return BandFile(path, usual=Declaration(255, by=_HLS_SAYS), interpolation="nearest")
    # Thermal bands of Landsat hold hundredths of a degree.
    scale = 0.01 if band in _HLS_THERMAL[path.name.split(".")[1]] else 1e-4
    unit = "1" if scale == 1e-4 else "degree_Celsius"
    return BandFile(path, usual=Declaration(-9999, scale, 0.0, unit, by=_HLS_SAYS))


def _listed(path: Path) -> Granule:
    rule = "must be YAML with `bands`, the name of each with its file, and at most `reference` beside it; correct it"
    try:
        content = read_yaml(path)
        files = {str(band): _listed_file(path, entry) for band, entry in content.pop("bands").items()}
        reference = content.pop("reference", None)
        if content:
            raise ValueError(f"unknown key {next(iter(content))!r}")
        if not files:
            raise ValueError("no band")
    except OSError as error:
        raise SceneError(f"{path}: {error.strerror}: must be a readable file; check the path") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SceneError(f"{path}: is not understood ({' '.join(str(error).split())[:120]}): {rule}") from error
    if reference is not None and reference not in files:
        raise SceneError(f"{path}: reference {reference!r}: must be one of the bands {', '.join(files)}; correct it")
    return Granule(path.stem, files, reference)


def _listed_file(by: Path, entry: Any) -> BandFile:
    """One band of a list: a file, or a mapping of `file` and what else a `BandFile` has."""
    values: dict[str, Any] = {"file": entry} if isinstance(entry, str) else dict(entry)
    given = values.pop("file")
    place = located(given)
    place = by.parent / place if isinstance(place, Path) else place
    check_named(place, by=by, folder=by.parent)
    numbers: dict[str, Any] = {key: float(values.pop(key)) for key in ("scale", "offset", "nodata") if key in values}
    if numbers.get("scale") == 0 or not all(map(math.isfinite, (numbers.get("scale", 1), numbers.get("offset", 0)))):
        raise ValueError("scale and offset must be finite, and the scale not 0")
    band = str(values.pop("band", "1"))
    interpolation: Any = values.pop("interpolation", "bilinear")
    if interpolation not in ("bilinear", "nearest"):
        raise ValueError(f"interpolation {interpolation!r}: must be bilinear or nearest")
    if values:
        raise ValueError(f"unknown key {next(iter(values))!r}")
    given = Declaration(**numbers, by="list")
    return BandFile(place, band, given, interpolation=interpolation)


def _safe(folder: Path) -> Granule:
    """A Sentinel-2 product of level 1C or 2A (product specification, version 14)."""
    metadata = sorted(folder.glob("MTD_MSIL[12]?.xml"))
    if not metadata:
        raise SceneError(
            f"{folder}: has no MTD_MSIL1C.xml or MTD_MSIL2A.xml, which say what its numbers mean: copy it whole"
        )
    found: dict[str, tuple[int, Path]] = {}
    for path in sorted(folder.glob("GRANULE/*/IMG_DATA/**/*.jp2")):
        named = _SAFE.fullmatch(path.name)
        if named is None:
            continue
        band, size_m = named[1], int(named[2] or 0)
        # Level 2A holds most bands at several pixel sizes; the finest is the one measured.
        if band not in found or size_m < found[band][0]:
            found[band] = size_m, path
    if not found:
        raise SceneError(f"{folder}: no band below GRANULE/*/IMG_DATA: copy the product whole")
    quantity, offsets = _radiometry(metadata[0])
    files = {band: _safe_file(found[band][1], band, quantity, offsets) for band in sorted(found, key=_rank)}
    return Granule(folder.name.removesuffix(".SAFE"), files)


def _safe_file(path: Path, band: str, quantity: float, offsets: Mapping[str, float]) -> BandFile:
    if band == "SCL":
        return BandFile(path, usual=Declaration(0, by=_SAFE_SAYS), interpolation="nearest")
    numbers = 1 / quantity, offsets.get(band, 0.0) / quantity
    return BandFile(path, usual=Declaration(0, *numbers, "1", by=_SAFE_SAYS))


def _rank(band: str) -> int:
    return _SAFE_BANDS.index(band) if band in _SAFE_BANDS else len(_SAFE_BANDS)


def _radiometry(path: Path) -> tuple[float, dict[str, float]]:
    """Stored units per 1 of reflectance, and what is added to the numbers of each band first."""
    try:
        root = ElementTree.fromstring(read_text(path))
        leaves = [(element.tag.rpartition("}")[2], element) for element in root.iter()]
        quantities = _numbers(leaves, ("QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE"))
        offsets = {
            _SAFE_BANDS[_index(element.attrib["band_id"])]: float(element.text or "")
            for tag, element in leaves
            if tag in ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET")
        }
        if not quantities or not 0 < quantities[0] < math.inf:
            raise ValueError(f"QUANTIFICATION_VALUE {quantities[0]:g}" if quantities else "no QUANTIFICATION_VALUE")
        if wrong := [f"{band} {offset:g}" for band, offset in offsets.items() if not math.isfinite(offset)]:
            raise ValueError(f"offset of {wrong[0]}")
    except OSError as error:
        raise SceneError(f"{path}: {error.strerror}: must be a readable file; copy the product whole") from error
    except (ElementTree.ParseError, ValueError, KeyError, IndexError) as error:
        raise SceneError(
            f"{path}: does not say what numbers mean ({error}): must be the metadata of a Sentinel-2 product; copy the "
            "product whole"
        ) from error
    return quantities[0], offsets


def _index(text: str) -> int:
    """A number from 0; -1 would be the last band."""
    if (index := int(text)) < 0:
        raise ValueError(f"band_id {text}")
    return index


def _numbers(leaves: Iterable[tuple[str, ElementTree.Element]], tags: tuple[str, ...]) -> list[float]:
    return [float(element.text or "") for tag, element in leaves if tag in tags]
