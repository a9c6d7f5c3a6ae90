"""Scenes as users name them: a raster file, its address, or a product of several files; with a mask band if wanted.

Products are Sentinel-2 SAFE folders, granules of HLS, and what a YAML file lists. Such a list names the file of each
band, and the band whose grid is the scene's (else the finest one is):

    reference: red
    bands:
      red: {file: image.tif, band: B4, scale: 0.0001}
      height: dem.tif
      clouds: {file: clouds.tif, interpolation: nearest}

Its files lie in its own folder, or below a stated root (`geocore.raster.paths`).

A list and a VRT say where pixels lie and hold none themselves, so the hash of a scene is that of all that its name
leads to. What lies behind http:// or s3:// is not fetched for it and counts by its address.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from geocore.errors import DataError, SceneError
from geocore.raster.bands import Bands
from geocore.raster.declarations import COMMAND_LINE, NOTHING, Declaration
from geocore.raster.formats import unread_among
from geocore.raster.geotiff import RasterReader
from geocore.raster.grid import Grid
from geocore.raster.masks import MaskedReader, MaskRule
from geocore.raster.paths import Location, as_path_or_url, check_named, is_remote, redacted, stem_of
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.raster.stack import BandRef, BandStack, grid_of_file
from geocore.raster.vrt import MOST_NESTED, named_in
from geocore.raster.write import read_legend
from geocore.storage.documents import read_text, read_yaml
from geocore.storage.files import sha256_file
from geocore.storage.special_files import check_regular

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
    files: Mapping[str, BandRef]
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


def _hls_file(path: Path, band: str) -> BandRef:
    if band == "Fmask":
        return BandRef(path, usual=Declaration(255, by=_HLS_SAYS), interpolation="nearest")
    # Thermal bands of Landsat hold hundredths of a degree.
    scale = 0.01 if band in _HLS_THERMAL[path.name.split(".")[1]] else 1e-4
    unit = "1" if scale == 1e-4 else "degree_Celsius"
    return BandRef(path, usual=Declaration(-9999, scale, 0.0, unit, by=_HLS_SAYS))


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
    if reference is not None and (not isinstance(reference, str) or reference not in files):
        raise SceneError(f"{path}: reference {reference!r}: must be one of the bands {', '.join(files)}; correct it")
    return Granule(path.stem, files, reference)


def _listed_file(by: Path, entry: Any) -> BandRef:
    """One band of a list: a file, or a mapping of `file` and what else a `BandRef` has."""
    values: dict[str, Any] = {"file": entry} if isinstance(entry, str) else dict(entry)
    given = values.pop("file")
    place = as_path_or_url(given)
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
    return BandRef(place, band, given, interpolation=interpolation)


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


def _safe_file(path: Path, band: str, quantity: float, offsets: Mapping[str, float]) -> BandRef:
    if band == "SCL":
        return BandRef(path, usual=Declaration(0, by=_SAFE_SAYS), interpolation="nearest")
    numbers = 1 / quantity, offsets.get(band, 0.0) / quantity
    return BandRef(path, usual=Declaration(0, *numbers, "1", by=_SAFE_SAYS))


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


def scene_hash(location: Location) -> str:
    """SHA-256 of the content of every file of a scene, 64 hexadecimal digits; wherever they lie.

    Of one file that names no others it is `files.sha256_file`.

    Raises:
        SceneError: a list or a granule cannot be understood.
        OSError: a file cannot be read.
    """
    granule = granule_of(location)
    if granule is None:
        return _content(as_path_or_url(location))
    lines = [
        f"{band} {dataclasses.replace(file, path='')} {_content(file.path)}" for band, file in granule.files.items()
    ]
    return hashlib.sha256("\n".join([str(granule.reference), *lines]).encode()).hexdigest()


def files_of_scene(location: Location) -> Iterator[Path]:
    """Every file whose content `scene_hash` takes, without reading what is in them but for lists and VRTs.

    Raises:
        SceneError, OSError: as of `scene_hash`.
    """
    granule = granule_of(location)
    for place in [as_path_or_url(location)] if granule is None else [file.path for file in granule.files.values()]:
        yield from _files(place)


def _content(location: Location, above: tuple[Path, ...] = ()) -> str:
    if not isinstance(location, Path):
        return hashlib.sha256(redacted(location).encode()).hexdigest()
    check_regular(location)
    digest = sha256_file(location)
    behind = [
        _content(place, (*above, Path(os.path.realpath(location)))) if place.is_file() else "missing"
        for place in _behind(location, above)
    ]
    return hashlib.sha256("\n".join([digest, *behind]).encode()).hexdigest() if behind else digest


def _files(location: Location, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    if isinstance(location, Path):
        yield location
        for place in _behind(location, above):
            if place.is_file():
                yield from _files(place, (*above, Path(os.path.realpath(location))))


def _behind(location: Path, above: tuple[Path, ...]) -> list[Path]:
    """Files that a VRT names, one that those in `above` led to; of any other file none."""
    path = Path(os.path.realpath(location))
    # What names itself, or reaches for what it may not, is refused by whoever opens it.
    if location.suffix.lower() != ".vrt" or path in above or len(above) == MOST_NESTED:
        return []
    try:
        places = [named.place for named in named_in(path, folder=above[0].parent if above else None)]
    except SceneError:
        return []
    return [place for place in dict.fromkeys(places) if isinstance(place, Path)]


ProductReader = RasterReader | BandStack | MaskedReader


def scene_name(location: Location) -> str:
    """What the products of a scene are called: the file's name without its ending, or the granule's."""
    try:
        granule = granule_of(location)
    except SceneError:  # whoever opens it says what is wrong
        path = Path(location)
        return path.name.removesuffix(".SAFE") if path.is_dir() else path.stem
    return stem_of(location) if granule is None else granule.name


def find_scenes(
    inputs: Sequence[Location], *, extensions: Sequence[str], left_out: Sequence[str] = (), made: Sequence[str] = ()
) -> dict[str, Location]:
    """Scenes among files, addresses, granules and folders of them.

    Args:
        inputs: what a user names.
        extensions: of raster files that count in a folder, in lower case; hidden files do not count.
        left_out: ends of the names of files in a folder that are no scenes, such as labels.
        made: ends of the names, without extension, of rasters made from another one in the same folder.

    Returns:
        Name of each scene -> where it lies.

    Raises:
        DataError: a path does not exist or holds no scene, or two scenes would write to the same products.
    """
    found: dict[str, Location] = {}
    for given in map(as_path_or_url, inputs):
        scenes = [given]
        if isinstance(given, Path) and not is_granule(given):
            if not given.exists():
                raise DataError(f"{given}: not found: --input takes scenes or folders of them; check the path")
            # Whoever opens what is neither file nor folder says what it is.
            scenes = _scenes_in(given, extensions, left_out, made) if given.is_dir() else [given]
            if not scenes:
                raise DataError(
                    f"{given}: no scene ({', '.join(extensions)}, .SAFE, HLS): check the path"
                    f"{unread_among(sorted(given.iterdir()))}"
                )
        for scene in scenes:
            other = found.setdefault(scene_name(scene), scene)
            if _resolved(other) != _resolved(scene):
                raise DataError(
                    f"{redacted(scene)} and {redacted(other)} share a name and so their products: rename one, or map "
                    "them into different folders"
                )
    return found


def scene_bands(location: Location, *, alpha: bool = False) -> tuple[str, ...]:
    """Names of the bands of a scene: as for `RasterReader`, or all of a granule, mask bands too.

    Args:
        location: as for `open_scene`.
        alpha: a band of a file that is flagged alpha counts too, as it may be asked for.

    Raises:
        SceneError: the scene cannot be opened.
    """
    granule = granule_of(location)
    if granule is not None:
        return tuple(granule.files)
    with closing(RasterReader(location)) as source:
        return source.names if alpha else source.layer.bands.names


def open_scene(
    location: Location,
    *,
    layer: str = "image",
    bands: Sequence[str] | None = None,
    given: Declaration = NOTHING,
    usual: Declaration | Sequence[Declaration] = NOTHING,
    mask: MaskRule | None = None,
) -> ProductReader:
    """Open what `location` names as a layer whose pixels are as stored.

    Args:
        location: a raster file, its http(s):// or s3:// address, or a granule as `granule_of` knows it. The
            bands of a granule are brought to its reference, or to the finest grid among those read, as `BandStack`
            does it.
        layer: name of the layer.
        bands: names of the bands to read, or numbers from 1, in this order. None reads all; of a granule all that are
            no mask.
        given: counts before what the files and lists of files say; not of mask bands.
        usual: counts where neither files nor the product say something; one for all bands, or one for each.
        mask: which pixels another band of the same scene makes invalid.

    Raises:
        SceneError: the scene cannot be opened or lacks a band.
    """
    granule = granule_of(location)
    with ExitStack() as opened:
        image: RasterReader | BandStack
        if granule is None:
            single = RasterReader(location, layer=layer, bands=bands, given=given, usual=usual)
            image = opened.enter_context(closing(single))
        else:
            image = opened.enter_context(closing(_stack(granule, layer, bands, given, usual)))
        if mask is None:
            opened.pop_all()
            return image
        if granule is None:
            flags: RasterReader | BandStack = opened.enter_context(closing(_flags(location, mask)))
        else:
            file = granule.files[_chosen(granule, mask.band)]
            flags = opened.enter_context(closing(BandStack({mask.band: file}, grid=image.grid)))
        masked = MaskedReader(image, flags, mask, image.grid)
        opened.pop_all()
        return masked


SceneLike = Scene | Path | str | npt.NDArray[Any]
"""What names or is a scene: as `open_scene` takes it, an array of shape (row, col) or (band, row, col), or one open."""
Source = Location | npt.NDArray[Any] | Sequence[Location]
"""What can be opened: as `SceneLike`, or several files, whose bands are brought to the finest grid among them."""


def open_any(
    source: Source,
    *,
    bands: Sequence[str | int] | str | int | None = None,
    nodata: float | None = None,
    mask: str | MaskRule | None = None,
    grid: Grid | None = None,
) -> Scene:
    """Open a scene of one layer, `image`; arguments and errors as of `geocore.open`."""
    names = None if bands is None else [str(band) for band in ([bands] if isinstance(bands, str | int) else bands)]
    if isinstance(source, np.ndarray):
        return _array_scene(source, names, nodata, grid)
    given = NOTHING if nodata is None else Declaration(nodata, by=COMMAND_LINE)
    if not isinstance(source, Path | str):
        if mask is not None:
            raise SceneError(
                f"mask {mask!r}: several files have none; give a product, a YAML list of bands, or one file"
            )
        return _files_scene(source, names, given, grid)
    place = as_path_or_url(source)
    rule = MaskRule.parse(mask) if isinstance(mask, str) else mask
    reader: ProductReader
    if rule is None and isinstance(place, Path) and place.is_file() and read_legend(place) is not None:
        reader = RasterReader(place, bands=names, given=given, codes=True)
    else:
        reader = open_scene(place, bands=names, given=given, mask=rule)
    return Scene(scene_name(place), grid or reader.grid, {reader.layer.name: reader})


@contextmanager
def opened(scene: SceneLike) -> Iterator[Scene]:
    """A scene for a while: one that is open stays so, another is opened and closed."""
    if isinstance(scene, Scene):
        yield scene
    else:
        with open_any(scene) as image:
            yield image


def _files_scene(
    locations: Sequence[Location], bands: Sequence[str] | None, given: Declaration, grid: Grid | None
) -> Scene:
    """Files as one layer: a band is called by its file where that has no other, else `<file>_<band>`."""
    files: dict[str, BandRef] = {}
    for place in map(as_path_or_url, locations):
        held = scene_bands(place)
        for band in held:
            name = stem_of(place) if len(held) == 1 else f"{stem_of(place)}_{band}"
            if name in files:
                raise SceneError(f"{redacted(place)}: a second band is called {name!r}: rename one of the files")
            files[name] = BandRef(place, band, given)
    if not files:
        raise SceneError("no file is given: name at least one")
    granule = Granule(stem_of(as_path_or_url(locations[0])), files)
    chosen = list(files) if bands is None else [_chosen(granule, band) for band in bands]
    stack = BandStack({name: files[name] for name in chosen}, layer="image")
    return Scene(granule.name, grid or stack.grid, {"image": stack})


def _array_scene(
    array: npt.NDArray[Any], bands: Sequence[str] | None, nodata: float | None, grid: Grid | None
) -> Scene:
    if array.ndim not in (2, 3) or array.dtype.kind not in "buif":
        raise SceneError(
            f"array of {array.dtype}, shape {array.shape}: must be numbers as (row, col) or (band, row, col)"
        )
    planes = array[np.newaxis] if array.ndim == 2 else array
    names = bands or [str(number) for number in range(1, len(planes) + 1)]
    if len(names) != len(planes):
        raise SceneError(f"bands {', '.join(names)}: {len(names)} names for an array of {len(planes)} bands")
    layer = Layer("image", Bands.named(*names, nodata=nodata), planes.dtype.name)
    return Scene("array", grid or Grid(*planes.shape[1:]), {"image": ArrayReader(layer, planes)})


def _scenes_in(folder: Path, extensions: Sequence[str], left_out: Sequence[str], made: Sequence[str]) -> list[Location]:
    granules = granules_in(folder)
    parts = tuple(f"{granule.name}." for granule in granules)
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in extensions
        and not file.is_dir()  # a pipe and a link to nothing are told of, as scenes that cannot be mapped
        and not (file.suffix == ".vrt" and file.name.startswith("all_"))  # maps of several scenes as one
        and not file.name.startswith((".", *parts))
        and not file.name.endswith(tuple(left_out))
    ]
    stems = {file.stem for file in files}
    products = {f"{stem}{ending}" for stem in stems for ending in made}
    return [*granules, *(file for file in files if file.stem not in products)]


def _resolved(location: Location) -> Location:
    # Not Path.resolve(), which raises where links lead in a circle.
    return Path(os.path.realpath(location)) if isinstance(location, Path) else location


def _flags(location: Location, mask: MaskRule) -> RasterReader:
    """The mask band of a file, without a nodata value that all bands share or that the rule calls clear."""
    source = RasterReader(location, bands=[mask.band], codes=True)
    nodata = source.layer.bands.bands[0].nodata
    if nodata is None or not (source.shared_nodata or mask.keeps(nodata)):
        return source
    source.close()
    meant = Declaration(math.nan, by=f"mask {mask.band}")
    return RasterReader(location, bands=[mask.band], given=meant, codes=True)


def _stack(
    granule: Granule,
    layer: str,
    bands: Sequence[str] | None,
    given: Declaration,
    usual: Declaration | Sequence[Declaration],
) -> BandStack:
    names = [name for name, file in granule.files.items() if file.interpolation != "nearest"]
    chosen = names if bands is None else [_chosen(granule, band) for band in bands]
    behind = [usual] * len(chosen) if isinstance(usual, Declaration) else usual
    files = {
        name: dataclasses.replace(file, given=given.before(file.given), usual=file.usual.before(other))
        for name, file, other in zip(chosen, (granule.files[name] for name in chosen), behind, strict=True)
    }
    grid = None if granule.reference is None else grid_of_file(granule.files[granule.reference])
    return BandStack(files, grid=grid, layer=layer)


def _chosen(granule: Granule, band: str) -> str:
    names = list(granule.files)
    # Both ways of writing a band of Sentinel-2 are common.
    padded = re.sub(r"^B(\d)$", r"B0\1", band)
    if padded in names:
        return padded
    if band.isdecimal() and 1 <= int(band) <= len(names):
        return names[int(band) - 1]
    raise SceneError(
        f"{granule.name}: has no band {band!r}: its bands are {', '.join(names)}; name one of these or a number from 1"
    )
