"""The front door: what `import geocore as geo` offers, over the rooms behind it.

Nothing here changes the process. Integers, strings, tuples and arrays work where people write them; what a user can
mend is a `UserError` of one line.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from geocore.datasets.sample_data import flood_sample
from geocore.errors import DataError, SettingsError
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.ground import has_ground
from geocore.raster.masks import MaskRule
from geocore.raster.paths import as_path_or_url, redacted
from geocore.raster.products import SceneLike, Source, open_any, opened
from geocore.raster.scene import Patch, Scene
from geocore.raster.write import Colour, read_legend, write_raster
from geocore.segmentation.prediction import INVALID, Prediction
from geocore.tiling.overlaps import View, shared_by_splits, view_of
from geocore.tiling.splits import map_blocks, split_by_group
from geocore.vector.features import library, measures, write_table
from geocore.vector.polygonize import Connectivity, Strip, trace_regions

if TYPE_CHECKING:
    import geopandas

    from geocore.segmentation.dataset import SegmentationDataset

_STRIP_ROWS: Final = 512
_SHARES: Final[Mapping[str, float]] = {"train": 0.7, "val": 0.15, "test": 0.15}
_NOTHING: Final = -(2**31)


def open(
    source: Source,
    *,
    bands: Sequence[str | int] | str | int | None = None,
    nodata: float | None = None,
    mask: str | MaskRule | None = None,
    grid: Grid | None = None,
) -> Scene:
    """Open a scene; nothing is read before it is asked for. Close it, or use `with`.

    Args:
        source: a raster file or its http(s):// or s3:// address; a Sentinel-2 SAFE folder; a granule of HLS; a YAML
            list of bands; several files, whose bands are brought to the finest grid among them; or an array of shape
            (row, col) or (band, row, col). A class map to which `predict` or `write` gave a legend is read as classes,
            whatever its colours.
        bands: names of the bands to read, or numbers from 1, in this order; one may stand alone. Of an array, the names
            of its bands. None: all, of a product all that are no mask.
        nodata: value that marks missing pixels, before what the file says.
        mask: band and its values or bits that make pixels invalid, such as `SCL:3,8,9,10` or `Fmask:bit1,bit3`.
        grid: where an array lies, or what counts instead of a file's georeference; of the same rows and columns.

    Raises:
        SceneError: it cannot be opened, or lacks a band.
        SettingsError: the mask is not understood.
    """
    return open_any(source, bands=bands, nodata=nodata, mask=mask, grid=grid)


def sample(name: str = "flood") -> Path:
    """A small data set to try things on, drawn once and kept in the user's cache: a folder.

    It holds `scene.tif` and `east.tif`, which overlap: 4 bands (green, red, nir, swir), uint16, reflectance x 10,000,
    0 nodata, EPSG:32652, 10 m; `truth.tif`: 0 land, 1 water of `scene.tif`; `chips`: 24 images of 128 x 128 pixels and
    their masks, `NAME.tif` and `NAME_mask.tif`, on a map of their own.

    Raises:
        SettingsError: there is no such sample.
        StorageError: the cache cannot be written.
    """
    if name != "flood":
        raise SettingsError(f"sample {name!r}: there is one, flood")
    return flood_sample()


def write(
    path: Path | str,
    values: npt.ArrayLike,
    *,
    like: Scene | Patch | Grid,
    nodata: float | None = None,
    colors: Mapping[int, Colour] | None = None,
    classes: Sequence[str] | Mapping[int, str] | None = None,
) -> None:
    """Write an array as a cloud-optimized GeoTIFF, whole or not at all, in the type that it has.

    Args:
        path: ending in .tif; replaced when it exists.
        values: shape (row, col) or (band, row, col), bool (stored as uint8), integers, or floats of 32 or 64 bits.
        like: where the pixels lie; of the same rows and columns. What a patch calls missing is missing in the file too.
        nodata: value that marks missing pixels; the type must be able to hold it, and no pixel of a patch that is there
            may have it.
        colors: class value -> (red, green, blue), 0-255; for one band of uint8 or uint16.
        classes: names of 0, 1, 2, ..., or class value -> name; a GIS shows them as a legend.

    Raises:
        DataError: shape or type cannot be written as they are.
        SettingsError: the name, the nodata value or the colours do not fit.
        StorageError: the disk is full or closed.
    """
    path, array = Path(path), np.asarray(values)
    grid = like if isinstance(like, Grid) else like.grid
    if grid is None:
        raise DataError(f"{path}: the patch does not know where it lies; take one of Scene.read, or give a grid")
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise SettingsError(f"{path}: rasters are written as GeoTIFF; give a name that ends in .tif")
    if array.ndim not in (2, 3) or array.shape[-2:] != grid.shape:
        raise DataError(
            f"{path}: values of shape {array.shape}: must be (row, col) or (band, row, col) of {grid.height} x "
            f"{grid.width} pixels, as `like` has them"
        )
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8 or array.dtype == np.float16:
        raise DataError(f"{path}: GeoTIFF has no {array.dtype}: nothing is converted silently; use .astype('float32')")
    if nodata is not None and not _holds(array.dtype, nodata):
        raise SettingsError(f"{path}: nodata = {nodata:g}: {array.dtype} cannot hold it; take another value or type")
    if colors and ((array.ndim == 3 and len(array) > 1) or array.dtype not in (np.bool_, np.uint8, np.uint16)):
        raise SettingsError(
            f"{path}: colors need one band of uint8 or uint16, not shape {array.shape} of {array.dtype}"
        )
    if isinstance(like, Patch):
        array = _marked(path, array, like, nodata)
    bands = [layer.bands.names for layer in like.layers.values()] if isinstance(like, Scene) else []
    write_raster(
        path,
        array,
        grid=grid,
        nodata=nodata,
        band_names=bands[0] if bands and array.ndim == 3 and len(array) == len(bands[0]) else None,
        colours=colors,
        class_names=None if classes is None else dict(classes if isinstance(classes, Mapping) else enumerate(classes)),
    )


def _marked(path: Path, array: npt.NDArray[Any], like: Patch, nodata: float | None) -> npt.NDArray[Any]:
    """An array with the nodata value wherever its patch has none."""
    valid = like.valid if array.ndim == 3 and len(like.valid) in (1, len(array)) else like.valid.all(axis=-3)
    valid = np.broadcast_to(valid, array.shape)
    if nodata is None:
        if not valid.all():
            raise SettingsError(
                f"{path}: {1 - valid.mean():.1%} of the patch is missing: give a nodata value to mark it with, or "
                "like=patch.grid to write all values as they are"
            )
        return array
    held = np.isnan(array) if math.isnan(nodata) else array == nodata
    if (held & valid).any():
        raise SettingsError(
            f"{path}: nodata = {nodata:g}: {int((held & valid).sum())} pixels that are there have this value and would "
            "be missing in the file; take another value or a wider type"
        )
    return np.where(valid, array, np.asarray(nodata).astype(array.dtype))


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "f":
        return not math.isfinite(value) or abs(value) <= float(np.finfo(dtype).max)
    limits = np.iinfo(np.uint8 if dtype.kind == "b" else dtype)
    return math.isfinite(value) and float(value).is_integer() and limits.min <= value <= limits.max


def polygonize(
    raster: SceneLike | Prediction,
    *,
    values: Collection[int] | int | None = None,
    probability: SceneLike | None = None,
    connectivity: Connectivity = 8,
    min_area_m2: float = 0.0,
    out: Path | str | None = None,
) -> geopandas.GeoDataFrame:
    """Outline the regions of a class map, pixels of one class that touch, read strip by strip.

    Needs the extra `geocore[polygons]`.

    Args:
        raster: class map of one band of integers: whatever `geocore.open` takes, or what `predict` made.
        values: classes that are wanted; None: all. Nodata is none.
        probability: raster of the same grid; integers are per cent, as `predict` writes them, floats 0-1.
        connectivity: 8: pixels that touch at a corner are one region; 4: only those that share an edge.
        min_area_m2: regions with less ground under their pixels are left out; 0 or more.
        out: .gpkg or .parquet to write as well.

    Returns:
        By their first pixel, row by row: `value`; `class`, its name where the raster has one, else the value as text;
        `mean_probability`, 0-1, the mean of the raster of it, where one is given: of two classes `predict` writes that
        of class 1, so that regions of class 0 have low ones; `area_m2` and `perimeter_m` on the ellipsoid, NaN
        without a georeference; `geometry` along the edges of the pixels, in the raster's CRS, or in columns and rows.

    Raises:
        DataError: the raster is no class map, or the other one has another grid.
        SettingsError: the extra is not installed, or an area is asked for without a georeference.
        SceneError: a raster cannot be read.
        StorageError: the disk is full or closed.
    """
    geopandas, shapely = library("geopandas"), library("shapely")
    if connectivity not in (4, 8):
        raise SettingsError(f"connectivity = {connectivity}: must be 4 or 8")
    if not min_area_m2 >= 0:
        raise SettingsError(f"min_area_m2 = {min_area_m2}: must be 0 or more")
    target = None if out is None else Path(out)
    with ExitStack() as stack:
        scene, names = stack.enter_context(_class_map(raster))
        grid = scene.grid
        quantity = None if probability is None else stack.enter_context(opened(probability))
        if quantity is not None and quantity.grid.shape != grid.shape:
            raise DataError(f"probability has {quantity.grid.shape} pixels, the map {grid.shape}: must be of one grid")
        if min_area_m2 and not has_ground(grid):
            raise SettingsError(f"min_area_m2 = {min_area_m2:g}: {scene.name} has no georeference; give 0")
        labels = [values] if isinstance(values, int) else None if values is None else [int(value) for value in values]
        regions = trace_regions(
            _strips(scene, quantity), grid, labels, min_area_m2, background=[_NOTHING], connectivity=connectivity
        )
    a, b, c, d, e, f = (grid.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))[:6]

    def placed(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        col, row = points.T
        return np.column_stack([a * col + b * row + c, d * col + e * row + f])

    crs = None if grid.transform is None else grid.crs
    shapes = [shapely.transform(region.shape, placed) for region in regions]
    ground = measures(shapes, crs)
    columns: dict[str, Any] = {
        "value": np.array([region.label for region in regions], np.int64),
        "class": np.array([names.get(region.label, str(region.label)) for region in regions], object),
    }
    if quantity is not None:
        columns["mean_probability"] = np.array([region.mean for region in regions], np.float64)
    columns |= {"area_m2": ground.area_m2, "perimeter_m": ground.perimeter_m}
    table = geopandas.GeoDataFrame(columns, geometry=geopandas.GeoSeries(shapes, crs=crs), crs=crs)
    if target is not None:
        write_table(target, table)
    return table


@contextmanager
def _class_map(raster: SceneLike | Prediction) -> Iterator[tuple[Scene, dict[int, str]]]:
    """A class map as it is stored, whatever its colours, and the names of its classes."""
    names: dict[int, str] = {}
    if isinstance(raster, Prediction):
        names = raster.classes
        if "label" not in raster.paths:
            with open_any(raster["label"], nodata=INVALID, grid=raster.grid) as scene:
                yield scene, names
            return
        raster = raster.paths["label"]
    if isinstance(raster, Path | str):
        place = as_path_or_url(raster)
        legend = read_legend(place) if isinstance(place, Path) else None
        names = names or (dict(legend.names) if legend else {})
        with open_raster(place, codes=True) as scene:
            yield _checked(scene), names
        return
    with opened(raster) as scene:
        yield _checked(scene), names


def _checked(scene: Scene) -> Scene:
    layer = next(iter(scene.layers.values()))
    if len(scene.layers) != 1 or len(layer.bands) != 1 or np.dtype(layer.dtype).kind not in "bui":
        raise DataError(
            f"{scene.name}: holds {len(layer.bands)} bands of {layer.dtype}: a class map is one band of integers; "
            "choose the band, or compare the values with a threshold first"
        )
    return scene


def _strips(scene: Scene, quantity: Scene | None) -> Iterator[Strip]:
    (name,), height, width = scene.layers, *scene.grid.shape
    for row in range(0, height, _STRIP_ROWS):
        window = Window(row, 0, min(_STRIP_ROWS, height - row), width)
        patch = scene.read_layers(window)[name]
        classes = np.where(patch.valid[0], patch.values[0].astype(np.int64), _NOTHING)
        yield row, classes, classes if quantity is None else _shares(quantity, window)


def _shares(scene: Scene, window: Window) -> npt.NDArray[np.float64]:
    """Probabilities 0-1, NaN where there are none."""
    patch = next(iter(scene.read_layers(window).values()))
    values = patch.values[0].astype(np.float64)
    return np.where(patch.valid[0], values if patch.values.dtype.kind == "f" else values / 100, np.nan)


@dataclass(frozen=True, slots=True)
class Block:
    """What a scene shows of one block of the map, and the split that the block belongs to."""

    scene: SceneLike = field(repr=False)
    """As it was given to `split_blocks`."""
    window: Window
    """Pixels of the scene."""
    split: str
    key: str
    """Name of the block, `r0002-c0011`, the same in every scene that shows a part of it."""
    name: str
    """Of the scene."""


def split_blocks(
    scenes: Sequence[SceneLike] | SceneLike,
    *,
    block_m: float,
    buffer_m: float,
    fractions: Mapping[str, float] | Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> list[Block]:
    """Divide scenes into blocks of ground for training, validation and test: one lattice on the map, over all scenes.

    Scenes may overlap and have any CRS: a place belongs to one split, whichever scene shows it, and pixels of different
    blocks are at least the buffer apart. `geocore.tiling.splits.map_blocks` says how the lattice lies.

    Args:
        scenes: whatever `geocore.open` takes, or scenes that are open; only their grids are looked at.
        block_m: edge of a block, m.
        buffer_m: unused strip between blocks, m.
        fractions: split -> wanted share of the pixels; three numbers are those of train, val and test.
        seed: chooses among divisions that come equally close.

    Returns:
        Blocks of the first scene row by row, then those of the next.

    Raises:
        DataError: a scene has no georeference, or there are fewer blocks than splits.
        SettingsError: the numbers do not fit together.
        SceneError: a scene cannot be opened.
    """
    given = list(scenes) if isinstance(scenes, Sequence) and not isinstance(scenes, str) else [scenes]
    if not given:
        raise DataError("scenes: there is none to divide; give some")
    named = isinstance(fractions, Mapping)
    values = list(fractions.values()) if isinstance(fractions, Mapping) else list(fractions)
    fits = len(values) > 1 if named else len(values) == len(_SHARES)
    if not fits or min(values) <= 0 or abs(sum(values) - 1) > 1e-6:
        raise SettingsError(
            f"fractions = {fractions}: must be above 0 and add up to 1; three for train, val, test, or a name -> share"
        )
    shares = fractions if isinstance(fractions, Mapping) else dict(zip(_SHARES, values, strict=True))
    names, grids = [], []
    for scene in given:
        with opened(scene) as image:
            names.append(image.name)
            grids.append(image.grid)
    found = map_blocks(names, grids, block_m=block_m, buffer_m=buffer_m)
    splits = split_by_group(
        [block.key for block in found],
        shares,
        seed,
        sizes=[block.window.height * block.window.width for block in found],
        remedy="take smaller blocks or add scenes",
    )
    return [
        Block(given[block.scene], block.window, split, block.key, names[block.scene])
        for block, split in zip(found, splits, strict=True)
    ]


def find_leaks(*splits: SegmentationDataset | Sequence[Block | SceneLike]) -> list[str]:
    """Find the same ground and the same pixels in two splits: copies, crops, neighbours that overlap, other dates.

    How, and what is not found, says `geocore.tiling.overlaps`.

    Args:
        splits: data sets; or lists of blocks, paths, or whatever else `geocore.open` takes. A single list of blocks is
            looked through by the splits that they name.

    Returns:
        One line for each two splits and each kind of leak; none where splits do not leak.

    Raises:
        DataError: there are fewer than two splits to compare, or one is empty.
        SceneError: a scene cannot be read.
    """
    parts: list[Any] = list(splits)
    if len(parts) == 1 and all(isinstance(item, Block) for item in parts[0]):
        parts = [[block for block in parts[0] if block.split == name] for name in sorted({b.split for b in parts[0]})]
    if len(parts) < 2 or not all(map(len, parts)):
        counts = ", ".join(str(len(part)) for part in parts) or "no"
        raise DataError(
            f"find_leaks: got {len(parts)} splits, of {counts} samples: it compares two or more, none of them empty; "
            "give each as an argument of its own"
        )
    called = [_split_name(part) for part in parts]
    count = sum(len(part) for part in parts)
    views: list[View] = []
    names: list[str] = []
    for number, (part, name) in enumerate(zip(parts, called, strict=True), 1):
        own = part.views() if hasattr(part, "views") else [_view(item, count) for item in part]
        views += own
        names += [f"split {number}" if name is None or called.count(name) > 1 else name] * len(own)
    return shared_by_splits(views, names)


def _split_name(part: Any) -> str | None:
    """What the blocks of a list call their split; None where they do not agree, or are none."""
    named = {item.split if isinstance(item, Block) else None for item in part} if isinstance(part, list | tuple) else {}
    return next(iter(named)) if len(named) == 1 else None


def _view(item: Block | SceneLike, samples: int) -> View:
    source, window = (item.scene, item.window) if isinstance(item, Block) else (item, None)
    with opened(source) as scene:
        place = f" {item.key}" if isinstance(item, Block) else ""
        named = redacted(source) if isinstance(source, str | Path) else scene.name
        layer = next(name for name, layer in scene.layers.items() if layer.ratio == 1)
        return view_of(f"{named}{place}", scene, layer, window, samples=samples)
