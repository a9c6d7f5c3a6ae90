"""Label rasters: opened as one band, counted by strips, refused where they cannot be masks, read as class indices.

What a label's file itself calls nodata (a nodata value, a mask band, alpha) is invalid in the scene that `open_label`
gives, so that it is neither class, nor boundary, nor object.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.errors import DataError, SettingsError
from geocore.raster.declarations import NOTHING, Declaration
from geocore.raster.extents import misfit
from geocore.raster.gdal import lossy_compression, open_dataset
from geocore.raster.geotiff import RasterReader
from geocore.raster.grid import Grid, Window
from geocore.raster.paths import gdal_env
from geocore.raster.scene import Layer, Patch, Scene

IGNORED: Final = 255
"""Target of pixels that neither train nor score."""

_STRIP_PX: Final = 1 << 22
_DENSE: Final = 1 << 16
"""Values are counted in a table where they span no more than this."""
_MASK_VALUES: Final = 48
"""Masks of layers and classes have fewer values than this, photographs more."""
_MASK_UNIFORM: Final = 0.7
"""Share of the pixels that equal all their neighbours: real masks have 0.79 to 0.99, real photographs 0.00 to 0.56."""
# What tells values that interpolation left from thin layers, measured on real masks, turned and resized by bilinear and
# bicubic interpolation and saved as JPEG: see `check_mask`.
_FEWEST_THIN: Final = 4
_LEAST_BETWEEN: Final = 0.25
_NEIGHBOURS_IN_LINE: Final = 1.9
_MANY_THIN: Final = 4
_GRID_TOLERANCE_PX: Final = 0.1
_GRID_RULE: Final = "an image and its label must cover the same pixels"


def open_label(path: Path, *, layer: str = "label", classes: Collection[int] = ()) -> Scene:
    """Open a label raster as a scene of one band of integers, as they are stored.

    Floats are read as the whole numbers that they hold, which is how some programs write masks.

    Args:
        path: of the file.
        layer: name of the layer.
        classes: values that mean something even where the file calls one of them nodata, such as 0 for background.

    Raises:
        SceneError: the file cannot be read.
        DataError: it has several bands, no integers, or is stored in a format that changes them.
    """
    with gdal_env(path), closing(open_dataset(path)) as dataset:
        if (lossy := lossy_compression(dataset)) is not None:
            raise DataError(
                f"{path}: {lossy} changes values, so that a mask in it holds some that nobody drew: save it as PNG or "
                "TIFF from the source, as the values cannot be had back from this file"
            )
        # No whole number is NaN.
        given = Declaration(nodata=math.nan) if set(dataset.nodatavals) & set(classes) else NOTHING
    source = RasterReader(path, layer=layer, given=given, codes=True)
    try:
        found, kind = source.layer, np.dtype(source.layer.dtype).kind
        if len(found.bands) != 1 or kind not in "uif":
            raise DataError(
                f"{path}: {len(found.bands)} bands of {found.dtype}: a mask has one band of whole numbers; save it as "
                "grey of 8 or 16 bits (such as gdal_translate -b 1 IN OUT.tif)"
            )
    except BaseException:
        source.close()
        raise
    return Scene(path.stem, source.grid, {layer: source if kind in "ui" else _WholeNumbers(path, source)})


class _WholeNumbers:
    """A band of floats that holds whole numbers, as integers."""

    def __init__(self, path: Path, source: RasterReader) -> None:
        wide = source.layer.dtype == "float64"
        self.layer = Layer(source.layer.name, source.layer.bands, "int64" if wide else "int32")
        self.shape = source.shape
        self.block = source.block
        self._path, self._source = path, source
        # Beyond this, neighbouring whole numbers are one float.
        self._largest = float(1 << 53 if wide else 1 << 24)

    def read(self, window: Window) -> Patch:
        patch = self._source.read(window)
        values = np.where(patch.valid, patch.values, 0)
        strange = (values != np.rint(values)) | (np.abs(values) > self._largest)
        if strange.any():
            raise DataError(
                f"{self._path}: holds {values[strange][0]:g}, and {int(strange.sum())} such pixels in {window.height} "
                "rows: a mask has whole numbers; resample it by the nearest neighbour from the source, or save the "
                "classes as integers"
            )
        return Patch(values.astype(self.layer.dtype), patch.valid)

    def close(self) -> None:
        self._source.close()


@dataclass(frozen=True, slots=True)
class Census:
    """The values of a label, counted."""

    pixels: Mapping[int, int]
    """Value -> pixels that the file does not call nodata, ascending."""
    uniform: frozenset[int]
    """Values of pixels that equal all their eight neighbours."""
    uniform_px: int
    """Such pixels."""
    missing_px: int
    """Pixels that the file itself calls nodata."""
    missing: tuple[int, ...] = ()
    """Values that stand there, ascending; the first few."""

    @property
    def thin(self) -> list[int]:
        """Values that fill no 3 x 3 pixels anywhere, ascending."""
        return [value for value in self.pixels if value not in self.uniform]

    @property
    def is_picture(self) -> bool:
        """Whether there are so many values in so little order that this is a photograph and no mask."""
        total = sum(self.pixels.values())
        return len(self.pixels) > _MASK_VALUES and self.uniform_px < _MASK_UNIFORM * total


def take_census(label: Scene, window: Window | None = None) -> Census:
    """Count the values of the first band of a scene's first layer; reads it once, by strips.

    Args:
        label: of whole numbers.
        window: pixels to look at, inside; None: all.
    """
    pixels: Counter[int] = Counter()
    missing: Counter[int] = Counter()
    uniform: set[int] = set()
    uniform_px = 0
    for strip in _strips(label, window or label.grid.whole):
        pixels.update(_counts(strip.values[strip.valid]))
        if not strip.valid.all():
            missing.update(_counts(strip.values[~strip.valid]))
        same = strip.uniform & strip.valid
        uniform_px += int(np.count_nonzero(same))
        uniform.update(_counts(strip.values[same]))
    ordered = {value: pixels[value] for value in sorted(pixels)}
    return Census(ordered, frozenset(uniform), uniform_px, missing.total(), tuple(sorted(missing)[:3]))


def check_mask(
    path: Path,
    label: Scene,
    image_name: str,
    image: Scene | None,
    *,
    classes: Collection[int] | None = None,
    instances: bool = False,
    window: Window | None = None,
) -> Census:
    """Refuse a label that is its image, a photograph, or was interpolated.

    Interpolation and lossy formats leave values between those that were drawn, on some pixels along the edges. A label
    is taken for such where at least four values, and more than there are others, fill no 3 x 3 pixels anywhere, a
    quarter of their pixels lies between the values around, and they make no lines, as thin layers do, or are many. This
    found 256 of 268 versions of real masks that were turned, resized (bilinear, bicubic) or saved as JPEG and had four
    new values; the others are a land-cover map with few values between its classes. No real mask is refused.

    Args:
        path: of the label.
        label: opened by `open_label`.
        image_name: of what it labels, for messages.
        image: what it labels; None: not looked at.
        classes: values that may occur: only others can be interpolated. None: any may.
        instances: values are ids of objects, of which there may be many small ones: nothing is said of interpolation,
            and of a photograph only where the image looks like its mask.
        window: pixels of the label to look at; None: all.

    Returns:
        The values, counted.

    Raises:
        DataError: so it is; the message says what to do.
    """
    census = take_census(label, window)
    if image is not None and len(census.pixels) > 1 and _same_pixels(label, image):
        raise DataError(f"{path}: holds the same pixels as {image_name}: a mask is not its image; give the mask")
    undeclared = [value for value in census.pixels if classes is None or value not in classes]
    if census.is_picture and len(undeclared) > _MASK_VALUES:
        if image is not None and _looks_like_mask(image):
            raise DataError(
                f"{path}: is a photograph ({len(census.pixels)} values), and {image_name} holds few values, as a mask "
                "does: the two are swapped; exchange their names or folders"
            )
        if not instances:
            raise DataError(
                f"{path}: is a photograph, or a mask that was interpolated: it has {len(census.pixels)} values, and "
                f"only {census.uniform_px} pixels equal their neighbours; give the mask of {image_name} as it was drawn"
            )
    if not instances:
        _check_interpolation(path, label, census, undeclared, window)
    return census


@dataclass(frozen=True, slots=True)
class LabelCodes:
    """What the numbers in label files mean."""

    values: tuple[int, ...]
    """Value of each class; its place is the class index."""
    ignored: tuple[int, ...] = ()
    """Values of pixels that neither train nor score."""


def class_codes(classes: Sequence[str] | Mapping[int, str], ignore: int | None) -> tuple[LabelCodes, list[str]]:
    """What numbers in masks mean, and the names of the classes in the order of their indices.

    Args:
        classes: names of 0, 1, 2, ...; or value -> name.
        ignore: value that counts for nothing; None: none does.

    Raises:
        SettingsError: they cannot be used.
    """
    if isinstance(classes, str):
        raise SettingsError(f"classes = {classes!r}: must be several names, such as ['land', 'water']")
    held = dict(classes) if isinstance(classes, Mapping) else dict(enumerate(classes))
    names = [str(name) for name in held.values()]
    if not 2 <= len(held) < IGNORED:
        raise SettingsError(f"classes = {names}: must be 2 to {IGNORED - 1} names, such as ['land', 'water']")
    if ignore in held:
        raise SettingsError(
            f"ignore = {ignore}: is the value of class {held[ignore]!r} as well: give another, or None where all count"
        )
    return LabelCodes(tuple(int(value) for value in held), () if ignore is None else (ignore,)), names


def read_target(path: Path, codes: LabelCodes, window: Window | None = None) -> npt.NDArray[np.uint8]:
    """Class indices of a label file.

    Args:
        path: the file.
        codes: what its numbers mean. The file's own nodata value is ignored too, unless it is a class.
        window: may reach outside; None: all.

    Returns:
        Shape (row, col), uint8: class index, 255 where ignored or outside.

    Raises:
        SceneError: the file cannot be read.
        DataError: it is no mask, or holds a value that is neither a class nor ignored.
    """
    with open_label(path, classes=codes.values) as label:
        return target_of(label, path, codes, window)


def target_of(label: Scene, path: Path, codes: LabelCodes, window: Window | None = None) -> npt.NDArray[np.uint8]:
    """Class indices of a label that `open_label` opened; other arguments, result and errors as of `read_target`."""
    window = window or label.grid.whole
    target = np.full(window.shape, IGNORED, np.uint8)
    inside = window.intersection(label.grid.whole)
    if inside is not None:
        (patch,) = label.read_layers(inside).values()
        place = inside.shifted(-window.row, -window.col).slices
        target[place] = class_indices(patch.values[0], patch.valid[0], codes, path)
    return target


def class_indices(
    stored: npt.NDArray[Any], valid: npt.NDArray[np.bool_], codes: LabelCodes, source: object
) -> npt.NDArray[np.uint8]:
    """Class indices of numbers as they are stored.

    Args:
        stored: any shape, integer.
        valid: the same shape; False is ignored.
        codes: what the numbers mean.
        source: where they are from, for messages.

    Returns:
        The same shape, uint8: class index, 255 where ignored.

    Raises:
        DataError: a value is neither a class nor ignored.
    """
    target = np.full(stored.shape, IGNORED, np.uint8)
    known = ~valid
    for value in codes.ignored:
        known |= stored == value
    for index, value in enumerate(codes.values):
        here = (stored == value) & valid
        target[here] = index
        known |= here
    if not known.all():
        classes, ignored = ", ".join(map(str, codes.values)), ", ".join(map(str, codes.ignored)) or "none"
        raise DataError(
            f"{source}: holds {stored[~known][0]}: labels are {classes}, and ignored {ignored}; correct the label, or "
            "name the value with --classes or --ignore (classes, ignore)"
        )
    return target


def check_label(path: Path, image: Path, scene: Scene, codes: LabelCodes) -> Census:
    """Refuse a label that does not lie on its image or is no mask.

    Args:
        path: of the label.
        image: of the image.
        scene: the image, open.
        codes: what the numbers of the label mean.

    Returns:
        The label's values, counted.

    Raises:
        SceneError: the label cannot be read.
        DataError: it has another size, lies elsewhere, is stored in a lossy format, was interpolated, or is a picture.
            Published grids differ in the last digits, and their CRS in how they are written, so that a tenth of a pixel
            is let pass; a label without any georeference is taken to lie on its image.
    """
    with open_label(path, classes=codes.values) as label:
        check_same_grid(str(path), label.grid, scene.name, scene.grid)
        return check_mask(path, label, str(image), scene, classes=(*codes.values, *codes.ignored))


def check_same_grid(name: str, grid: Grid, other_name: str, other: Grid) -> None:
    """Refuse a label that does not cover the pixels of its image, or of another label.

    Args:
        name: of the label, for messages.
        grid: of the label.
        other_name: of what it belongs to.
        other: its grid; where only one of the two has a georeference, their sizes alone are compared.

    Raises:
        DataError: size or place differ.
    """
    if grid.shape != other.shape:
        sizes = [f"{rows} x {cols}" for rows, cols in (grid.shape, other.shape)]
        raise DataError(f"{name}: {sizes[0]} px, but {other_name} has {sizes[1]}: {_GRID_RULE}; cut or resample it")
    placed = grid.transform is not None and other.transform is not None
    if placed and not other.same_georeference(grid, _GRID_TOLERANCE_PX):
        raise DataError(f"{name}: {_GRID_RULE}, and {misfit(grid, other, other_name)}")


def check_varied(
    what: str, values: Mapping[str, Collection[int | str]], *, names: bool, called: str = "masks"
) -> tuple[str, ...]:
    """Refuse a data set in whose masks there is nothing to tell apart.

    Args:
        what: the data set, for messages.
        values: mask -> values that count in it.
        names: values are names within a mask, as ids of layers are: each mask needs two. Otherwise they are classes,
            and two are needed in all masks together.
        called: what masks are called, in the plural.

    Returns:
        A note on masks of one value, or none.

    Raises:
        DataError: so it is.
    """
    alone = [mask for mask, held in values.items() if len(held) < 2]
    if names:
        varied = len(alone) < len(values)
    else:
        varied = len(set().union(*values.values())) > 1
    if not varied:
        examples = ", ".join(f"{mask} ({', '.join(map(str, held)) or 'none'})" for mask, held in [*values.items()][:3])
        raise DataError(
            f"{what}: all {len(values)} {called} hold one value: {examples}: there is nothing to tell apart; check "
            "that these are the labels that are meant"
        )
    return (f"{len(alone)} of {len(values)} {called} hold one value only: {_listed(alone)}",) if alone else ()


def missing_note(censuses: Mapping[str, Census]) -> tuple[str, ...]:
    """A note on pixels that masks call nodata, or none; mask -> its census."""
    marked = {mask: census for mask, census in censuses.items() if census.missing_px}
    if not marked:
        return ()
    values = sorted({value for census in marked.values() for value in census.missing})
    total = sum(census.missing_px for census in marked.values())
    return (
        f"{len(marked)} of {len(censuses)} masks call {total} pixels nodata ({_listed([*map(str, values)], 3)}): these "
        f"count for nothing: {_listed([*marked])}",
    )


@dataclass(frozen=True, slots=True)
class _Strip:
    """Some rows of a label with those around them."""

    values: npt.NDArray[Any]
    """Shape (row, col), integer."""
    valid: npt.NDArray[np.bool_]
    """Shape (row, col)."""
    around: npt.NDArray[Any]
    """Shape (row + 2, col + 2): `values` within a frame of their neighbours; beyond the window those of its border."""

    @property
    def neighbours(self) -> Iterator[npt.NDArray[Any]]:
        """The eight neighbours of each pixel, each of shape (row, col)."""
        rows, cols = self.values.shape
        places = ((down, right) for down in range(3) for right in range(3) if (down, right) != (1, 1))
        return (self.around[down : down + rows, right : right + cols] for down, right in places)

    @property
    def uniform(self) -> npt.NDArray[np.bool_]:
        """Which pixels equal all their neighbours; shape (row, col)."""
        across = self.around[:, :-2] == self.around[:, 1:-1]
        across &= self.around[:, 2:] == self.around[:, 1:-1]
        same: npt.NDArray[np.bool_] = across[:-2] & across[1:-1]
        same &= across[2:]
        same &= self.around[:-2, 1:-1] == self.values
        same &= self.around[2:, 1:-1] == self.values
        return same


def _strips(label: Scene, window: Window) -> Iterator[_Strip]:
    """Strips of a window, from top to bottom."""
    name = next(iter(label.layers))
    step = max(1, _STRIP_PX // window.width)
    for row in range(window.row, window.row_stop, step):
        stop = min(row + step, window.row_stop)
        above, below = int(row > window.row), int(stop < window.row_stop)
        patch = label.read(Window(row - above, window.col, stop - row + above + below, window.width), layer=name)
        rows = slice(above, above + stop - row)
        around = np.pad(patch.values[0], ((1 - above, 1 - below), (1, 1)), mode="edge")
        yield _Strip(patch.values[0][rows], patch.valid[0][rows], around)


def _check_interpolation(
    path: Path, label: Scene, census: Census, undeclared: Sequence[int], window: Window | None
) -> None:
    thin = [value for value in undeclared if value not in census.uniform]
    if len(thin) < _FEWEST_THIN or len(thin) <= len(census.uniform):
        return
    pixels = between = alike = 0
    for strip in _strips(label, window or label.grid.whole):
        here = np.isin(strip.values, thin) & strip.valid
        if not here.any():
            continue
        values = strip.values[here]
        around = np.stack([neighbour[here] for neighbour in strip.neighbours])
        pixels += values.size
        between += int(((around.min(axis=0) < values) & (values < around.max(axis=0))).sum())
        alike += int((around == values).sum())
    lines = alike / pixels >= _NEIGHBOURS_IN_LINE
    if between / pixels < _LEAST_BETWEEN or (lines and len(thin) <= _MANY_THIN * len(census.uniform)):
        return
    raise DataError(
        f"{path}: {len(thin)} of its {len(census.pixels)} values, such as {_listed([*map(str, thin)], 3)}, stand on "
        f"{pixels} scattered pixels between others, as interpolation or a lossy format leaves them, and nobody drew "
        "them: turn and resize masks by the nearest neighbour, and keep them as PNG or TIFF; make it again from its "
        "source"
    )


def _same_pixels(label: Scene, image: Scene) -> bool:
    """Whether a label equals an image of one band."""
    layer = next(iter(image.layers.values()))
    name = next(iter(label.layers))
    if layer.axes != (1,) or image.grid.shape != label.grid.shape or np.dtype(layer.dtype).kind not in "ui":
        return False
    step = max(1, _STRIP_PX // label.grid.width)
    windows = (
        Window(row, 0, min(step, label.grid.height - row), label.grid.width)
        for row in range(0, label.grid.height, step)
    )
    return all(
        np.array_equal(label.read(w, layer=name).values, image.read(w, layer=layer.name).values) for w in windows
    )


def _looks_like_mask(image: Scene) -> bool:
    layer = next(iter(image.layers.values()))
    if layer.axes != (1,) or np.dtype(layer.dtype).kind not in "ui":
        return False
    return not take_census(image).is_picture


def _counts(values: npt.NDArray[Any]) -> dict[int, int]:
    """Value -> how often it occurs; shape (pixel,), integer."""
    if not values.size:
        return {}
    low, high = int(values.min()), int(values.max())
    if high - low >= _DENSE:
        found, counts = np.unique(values, return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))
    if values.dtype.kind == "i":  # the difference of small types may not fit them
        values = values.astype(np.int64)
    table = np.bincount((values - values.dtype.type(low)).astype(np.int64))
    return {low + int(place): int(table[place]) for place in np.flatnonzero(table)}


def _listed(names: Sequence[str], limit: int = 5) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
