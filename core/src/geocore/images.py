"""Scenes as users name them: a raster file, its address, or a granule of several files; with a mask band if wanted."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from geocore.declarations import NOTHING, Declaration
from geocore.errors import DataError, SceneError
from geocore.formats import unread_among
from geocore.granules import Granule, granule_of, granules_in, is_granule
from geocore.locations import Location, located, name_of, shown
from geocore.masks import MaskedSource, MaskRule
from geocore.rasters import RasterSource
from geocore.stacks import StackSource, grid_of_file

ImageSource = RasterSource | StackSource | MaskedSource


def image_name(location: Location) -> str:
    """What the products of a scene are called: the file's name without its ending, or the granule's."""
    try:
        granule = granule_of(location)
    except SceneError:  # whoever opens it says what is wrong
        path = Path(location)
        return path.name.removesuffix(".SAFE") if path.is_dir() else path.stem
    return name_of(location) if granule is None else granule.name


def find_images(
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
    for given in map(located, inputs):
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
            other = found.setdefault(image_name(scene), scene)
            if _resolved(other) != _resolved(scene):
                raise DataError(
                    f"{shown(scene)} and {shown(other)} share a name and so their products: rename one, or map them "
                    "into different folders"
                )
    return found


def image_bands(location: Location, *, alpha: bool = False) -> tuple[str, ...]:
    """Names of the bands of a scene: as for `RasterSource`, or all of a granule, mask bands too.

    Args:
        location: as for `open_image`.
        alpha: a band of a file that is flagged alpha counts too, as it may be asked for.

    Raises:
        SceneError: the scene cannot be opened.
    """
    granule = granule_of(location)
    if granule is not None:
        return tuple(granule.files)
    with closing(RasterSource(location)) as source:
        return source.names if alpha else source.layer.bands.names


def open_image(
    location: Location,
    *,
    layer: str = "image",
    bands: Sequence[str] | None = None,
    given: Declaration = NOTHING,
    usual: Declaration | Sequence[Declaration] = NOTHING,
    mask: MaskRule | None = None,
) -> ImageSource:
    """Open what `location` names as a layer whose pixels are as stored.

    Args:
        location: a raster file, its http(s):// or s3:// address, or a granule as `granules.granule_of` knows it. The
            bands of a granule are brought to its reference, or to the finest grid among those read, as `StackSource`
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
        image: RasterSource | StackSource
        if granule is None:
            single = RasterSource(location, layer=layer, bands=bands, given=given, usual=usual)
            image = opened.enter_context(closing(single))
        else:
            image = opened.enter_context(closing(_stack(granule, layer, bands, given, usual)))
        if mask is None:
            opened.pop_all()
            return image
        if granule is None:
            flags: RasterSource | StackSource = opened.enter_context(closing(_flags(location, mask)))
        else:
            file = granule.files[_chosen(granule, mask.band)]
            flags = opened.enter_context(closing(StackSource({mask.band: file}, grid=image.grid)))
        masked = MaskedSource(image, flags, mask, image.grid)
        opened.pop_all()
        return masked


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


def _flags(location: Location, mask: MaskRule) -> RasterSource:
    """The mask band of a file, without a nodata value that all bands share or that the rule calls clear."""
    source = RasterSource(location, bands=[mask.band], codes=True)
    nodata = source.layer.bands.bands[0].nodata
    if nodata is None or not (source.shared_nodata or mask.keeps(nodata)):
        return source
    source.close()
    meant = Declaration(math.nan, by=f"mask {mask.band}")
    return RasterSource(location, bands=[mask.band], given=meant, codes=True)


def _stack(
    granule: Granule,
    layer: str,
    bands: Sequence[str] | None,
    given: Declaration,
    usual: Declaration | Sequence[Declaration],
) -> StackSource:
    names = [name for name, file in granule.files.items() if file.interpolation != "nearest"]
    chosen = names if bands is None else [_chosen(granule, band) for band in bands]
    behind = [usual] * len(chosen) if isinstance(usual, Declaration) else usual
    files = {
        name: dataclasses.replace(file, given=given.before(file.given), usual=file.usual.before(other))
        for name, file, other in zip(chosen, (granule.files[name] for name in chosen), behind, strict=True)
    }
    grid = None if granule.reference is None else grid_of_file(granule.files[granule.reference])
    return StackSource(files, grid=grid, layer=layer)


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
