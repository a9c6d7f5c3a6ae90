"""File names of chips: which image belongs to which label, and what a name says of group and date.

Sen1Floods11: `Sri-Lanka_101973_S2Hand.tif` with `Sri-Lanka_101973_LabelHand.tif`; the flood event is what
stands in front of the number. HLS Burn Scars: `subsetted_512x512_HLS.S30.T10SFE.2020267.v1.4_merged.tif` with
`subsetted_512x512_HLS.S30.T10SFE.2020267.v1.4.mask.tif`; tile, year and day of the year stand between dots. Chips of
several dates: `chip_102_104_merged.tif` with `chip_102_104.mask.tif`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final

from floods_prithvi.config import Format
from geocore.errors import DataError
from geocore.raster.paths import Location
from geocore.raster.products import find_scenes
from geocore.storage.documents import read_json

SCENE_EXTENSIONS: Final = (".tif", ".tiff", ".vrt")
METADATA: Final = "Sen1Floods11_Metadata.geojson"

_CROPS: Final = (
    "natural vegetation",
    "forest",
    "corn",
    "soybeans",
    "wetlands",
    "developed or barren",
    "open water",
    "winter wheat",
    "alfalfa",
    "fallow or idle cropland",
    "cotton",
    "sorghum",
    "other",
)
_PRODUCTS: Final = ("_pred", "_prob", "_confidence")
"""What names of rasters made from a scene have behind its own."""
_CALLED_IN_METADATA: Final = MappingProxyType({"mekong": "cambodia"})
"""Event of the files -> location of the metadata, where they differ."""


@dataclass(frozen=True, slots=True)
class ChipFormat:
    """How chips of one kind are called and stored."""

    image: str
    """End of an image's name."""
    label: str
    """End of a label's name."""
    classes: Mapping[int, str]
    """Label value and name."""
    ignored: tuple[int, ...]
    """Label values of pixels that neither train nor score."""
    scale: float
    """Reflectance of one stored unit."""
    nodata: float | None
    """Stored value of missing pixels; None: as the files say."""
    groups: str
    """What must not be torn apart by a split, in the plural."""


FORMATS: Final[Mapping[Format, ChipFormat]] = MappingProxyType(
    {
        "sen1floods11": ChipFormat(
            "_S2Hand.tif", "_LabelHand.tif", {0: "land", 1: "water"}, (-1,), 1e-4, 0.0, "flood events"
        ),
        "burn-scars": ChipFormat(
            "_merged.tif", ".mask.tif", {0: "unburnt", 1: "burn scar"}, (-1,), 1.0, -9999.0, "image tiles"
        ),
        "frames": ChipFormat(
            "_merged.tif", ".mask.tif", dict(enumerate(_CROPS, start=1)), (0,), 1e-4, None, "groups of chips"
        ),
    }
)
_LABEL_ENDINGS: Final = tuple(sorted({form.label for form in FORMATS.values()}))


@dataclass(frozen=True, slots=True)
class ChipFiles:
    """An image with its label."""

    id: str
    """What both names begin with."""
    image: Path
    label: Path
    group: str
    """Flood event, HLS tile, or first number of the chip; the id where the name holds none."""
    date: str | None
    """YYYY-MM-DD where the name says so."""


def find_chips(folder: Path, kind: Format) -> tuple[list[ChipFiles], list[str]]:
    """Chips below a folder, in any depth, ordered by id.

    Args:
        folder: as it was published; hidden files do not count, nor those that macOS leaves in archives.
        kind: what names to look for.

    Returns:
        Chips, and remarks on files without a partner, which are left out.

    Raises:
        DataError: the folder is missing, holds no chip with a label, or two files of one name.
    """
    form = FORMATS[kind]
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder: --data takes the folder of the chips; check the path")
    files = sorted(path for path in folder.rglob("*.tif") if not path.name.startswith("."))
    images = _by_id((path for path in files if path.name.endswith(form.image)), form.image)
    labels = _by_id((path for path in files if path.name.endswith(form.label)), form.label)
    both = sorted(images.keys() & labels.keys())
    if not both:
        raise DataError(
            f"{folder}: no chip: {kind} takes *{form.image} with *{form.label}, and {len(images)} and {len(labels)} of "
            "these are there; check --data and --format"
        )
    notes = []
    for what, names in (("label", images.keys() - labels.keys()), ("image", labels.keys() - images.keys())):
        if names:
            notes.append(f"{len(names)} chips have no {what} and are left out: {listed(sorted(names))}")
    chips = [ChipFiles(name, images[name], labels[name], _group(name, kind), _date(name, kind)) for name in both]
    return chips, notes


def chip_id(name: str) -> str:
    """What a chip is called, from the name of any of its files, with folders, or from the id itself."""
    bare = re.split(r"[/\\]", name.strip())[-1]
    return re.sub(r"(_(S1Hand|S2Hand|LabelHand|merged)|\.mask)?(\.tiff?)?$", "", bare, count=1)


def read_event_dates(path: Path) -> dict[str, str]:
    """When Sentinel-2 saw each flood event.

    Args:
        path: GeoJSON whose features have `location` and `s2_date` (YYYY/MM/DD).

    Returns:
        Location in small letters without separators -> YYYY-MM-DD; locations without such a date are left out.

    Raises:
        DataError: the file cannot be read, or has no such feature.
    """
    try:
        content = read_json(path)
        entries = [feature["properties"] for feature in content["features"]]
        dates = {_plain(str(entry["location"])): _iso(str(entry.get("s2_date"))) for entry in entries}
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: must be a readable GeoJSON file; check --metadata") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: is not understood ({type(error).__name__}: {error}): must be GeoJSON whose features have "
            "location and s2_date; check --metadata"
        ) from error
    return {location: found for location, found in dates.items() if found is not None}


def date_of_event(event: str, dates: Mapping[str, str]) -> str | None:
    """Date of a flood event by the name that files give it; None where it is not known."""
    name = _plain(event)
    return dates.get(name) or dates.get(_CALLED_IN_METADATA.get(name, name))


def find_rasters(inputs: Sequence[Location]) -> dict[str, Location]:
    """Scenes among files, addresses and folders; in a folder, labels and what was made from another scene do not count.

    Returns:
        Name of each scene -> where it lies.

    Raises:
        DataError: a path does not exist or holds no scene, or two scenes would write to the same products.
    """
    return find_scenes(inputs, extensions=SCENE_EXTENSIONS, left_out=_LABEL_ENDINGS, made=_PRODUCTS)


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first names of many, and how many more there are."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _by_id(paths: Iterable[Path], ending: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(path.name.removesuffix(ending), path)
        if other != path:
            raise DataError(f"{path} and {other} share a name: each chip must be there once; remove or rename one")
    return found


def _group(name: str, kind: Format) -> str:
    match kind:
        case "sen1floods11":
            return name.rpartition("_")[0] or name
        case "burn-scars":
            tile = re.search(r"\.(T\d{2}[A-Z]{3})\.", name)
            return tile[1] if tile else name
        case "frames":
            number = re.fullmatch(r"(chip_\d+)_\d+", name)
            return number[1] if number else name


def _date(name: str, kind: Format) -> str | None:
    found = re.search(r"\.(\d{4})(\d{3})\.", name) if kind == "burn-scars" else None
    if found is None:
        return None
    first, days = date(int(found[1]), 1, 1), int(found[2])
    return (first + timedelta(days=days - 1)).isoformat() if 1 <= days <= 366 and first.year > 1 else None


def _iso(text: str) -> str | None:
    try:
        return datetime.strptime(text, "%Y/%m/%d").date().isoformat()
    except ValueError:
        return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
