"""Labels of a scene, whatever their form, as instance ids on the scene's grid.

A label is a raster (of one of three kinds) or a file of outlines. In a raster 0 is background, whatever the file calls
nodata, and only the value declared with `ignore` is ignored: 255 may be a slump, and an id is never anything else.
Objects of binary and class rasters are 8-connected components. Files are read by strips, to save memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.attributes import parse_where
from geocore.components import components
from geocore.errors import DataError
from geocore.grid import Grid, Window
from geocore.rasters import open_raster
from geocore.scenes import Scene
from slumps_detectron2.config import PrepareSettings
from slumps_detectron2.coverage import covered, offset

IGNORED: Final = 4294967295
"""Id of pixels that neither train nor score."""
UNLABELLED: Final = 255
"""The same among class values."""

_STRIP_PX: Final = 512
_LABEL: Final = "label"

Ids = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Labels:
    """Objects of a scene, or of the part of it that its label covers."""

    ids: Ids
    """Shape of `window`, uint32: 0 background, 1..n objects, `IGNORED`."""
    window: Window
    """Pixels of the scene that the label covers."""
    count: int
    """Objects; each has a pixel."""
    kind: str
    """binary, classes, instances, outlines, or majority."""
    classes: npt.NDArray[np.uint8] | None = None
    """Shape of `window`, uint8: class value, 0 background, 255 ignored; None where every object has class 1."""
    notes: tuple[str, ...] = ()
    """What a person should know: what became of outlines, and which pixels do not count."""


def read_labels(path: Path, grid: Grid, settings: PrepareSettings, *, scene: str = "the scene") -> Labels:
    """Read a label raster or outlines.

    Args:
        path: GeoPackage, Shapefile, GeoJSON or GeoParquet of outlines, or else a raster of integers.
        grid: of the scene.
        settings: kind of the raster, its classes, the ignored value, whether a raster may cover a part only, and which
            outlines count as what.
        scene: its name, for messages.

    Raises:
        DataError: the label does not lie on the scene's pixels, is of floats, or holds values that are not declared; or
            as of `geocore.outlines.read_outlines`.
    """
    from geocore.outlines import OUTLINE_EXTENSIONS

    if path.suffix.lower() in OUTLINE_EXTENSIONS:
        return _read_outlines(path, grid, settings, scene)
    with open_raster(path, layer=_LABEL, codes=True) as label:
        layer = label.layers[_LABEL]
        if len(layer.bands) != 1 or np.dtype(layer.dtype).kind not in "ui":
            raise DataError(
                f"{path}: {len(layer.bands)} bands of {layer.dtype}: a label raster has one band of integers; "
                "convert it (such as gdal_translate -b 1 -ot UInt32)"
            )
        window = covered(path, label.grid, grid, like=settings.like)
        source = _Source(label, window, *offset(label.grid, grid))
        values = source.values()
        kind = _checked_kind(path, values, layer.bands.bands[0].nodata, settings)
        ids, count, classes = _objects(source, kind, values, settings)
    notes = _suspicions(path, kind, values, settings.ignore)
    return Labels(ids, window, count, kind, classes, notes)


def without_gaps(ids: Ids, count: int) -> int:
    """Number the objects that have a pixel 1, 2, ... in their order, in place.

    Args:
        ids: shape (row, col), uint32: 0 background, objects up to `count`, `IGNORED`.
        count: highest id that may occur.

    Returns:
        Objects that have a pixel.
    """
    pixels = np.zeros(count + 1, np.int64)
    for rows in strips_of(len(ids)):
        strip = ids[rows]
        pixels += np.bincount(strip[strip != IGNORED], minlength=count + 1)
    present = pixels[1:] > 0
    if not present.all():
        table = np.append(0, np.cumsum(present)).astype(np.uint32)
        for rows in strips_of(len(ids)):
            strip = ids[rows]
            known = strip != IGNORED
            strip[known] = table[strip[known]]
    return int(np.count_nonzero(present))


@dataclass(frozen=True, slots=True)
class _Source:
    """The covered part of an open label raster."""

    label: Scene
    window: Window
    """Pixels of the scene."""
    down: int
    """Row of the scene at the first row of the label raster."""
    right: int

    def strips(self) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Rows of the window and their values, shape (row, col), integer."""
        for rows in strips_of(self.window.height):
            place = Window(self.window.row + rows.start, self.window.col, rows.stop - rows.start, self.window.width)
            yield rows, self.label.read(place.shifted(-self.down, -self.right))[_LABEL].values[0]

    def values(self) -> list[int]:
        """Values that occur, ascending."""
        found: set[int] = set()
        for _, strip in self.strips():
            # Most pixels are background: what is left is quick to sort.
            marked = strip[strip != 0]
            found.update(np.unique(marked).tolist())
            if marked.size < strip.size:
                found.add(0)
        return sorted(found)


def _checked_kind(path: Path, values: Sequence[int], nodata: float | None, settings: PrepareSettings) -> str:
    """The kind of a raster, once its values fit it."""
    ignore, kind = settings.ignore, settings.label_kind
    marked = [value for value in values if value not in (0, ignore)]
    if nodata is not None and nodata in marked:
        raise DataError(
            f"{path}: {nodata:.0f} occurs and is the file's nodata value: say --ignore {nodata:.0f} if nobody looked "
            "at these pixels, or take the nodata value out of the file (gdal_edit.py -unsetnodata) if they are slumps"
        )
    if marked and marked[0] < 0:
        raise DataError(
            f"{path}: holds {_listed([v for v in marked if v < 0])}: a label value is 0 or above; give --ignore "
            f"{marked[0]} if that marks pixels nobody looked at"
        )
    if kind is None:
        if not set(marked) <= {255}:
            raise DataError(
                f"{path}: holds {_listed(values)}: only 0 and 255 are clear without a word; give --label-kind binary, "
                "classes or instances, and --ignore VALUE where a value marks pixels nobody looked at"
            )
        return "binary"
    if kind == "classes" and (unknown := [value for value in marked if value not in settings.class_names]):
        known = ", ".join(f"{value} {name}" for value, name in sorted(settings.class_names.items()))
        raise DataError(
            f"{path}: holds {_listed(unknown)}, but the classes are {known}: list all in class_names, or give --ignore "
            "VALUE"
        )
    return kind


def _objects(
    source: _Source, kind: str, values: Sequence[int], settings: PrepareSettings
) -> tuple[Ids, int, npt.NDArray[np.uint8] | None]:
    ignore, shape = settings.ignore, source.window.shape
    classes: npt.NDArray[np.uint8] | None = None
    count = 0
    if kind == "instances":
        ids = np.zeros(shape, np.uint32)
        present = [value for value in values if value not in (0, ignore)]
        count = len(present)
        for rows, strip in source.strips():
            inside = (strip != 0) & ~_ignored(strip, ignore)
            # In the raster's own type: numpy mixes large and small integers as floats.
            ids[rows][inside] = np.searchsorted(np.array(present, strip.dtype), strip[inside]) + 1
    elif kind == "classes" and set(settings.class_names) != {1}:
        classes = np.zeros(shape, np.uint8)
        for rows, strip in source.strips():
            # The ignored value may not fit the type; it is dealt with below.
            classes[rows] = np.where(_ignored(strip, ignore), 0, strip)
        ids = np.zeros(shape, np.uint32)
        for value in sorted(settings.class_names):
            found = components(classes == value)
            largest = int(found.max())
            np.add(found, np.uint32(count), out=found, where=found > 0)
            ids |= found
            count += largest
    else:
        mask = np.zeros(shape, bool)
        for rows, strip in source.strips():
            mask[rows] = (strip != 0) & ~_ignored(strip, ignore)
        ids = components(mask)
        count = int(ids.max())
    if ignore in values:
        for rows, strip in source.strips():
            ignored = _ignored(strip, ignore)
            ids[rows][ignored] = IGNORED
            if classes is not None:
                classes[rows][ignored] = UNLABELLED
    return ids, count, classes


def _ignored(strip: npt.NDArray[Any], ignore: int | None) -> npt.NDArray[np.bool_]:
    return np.zeros(strip.shape, bool) if ignore is None else strip == ignore


def _suspicions(path: Path, kind: str, values: Sequence[int], ignore: int | None) -> tuple[str, ...]:
    ids = [value for value in values if value not in (0, ignore)]
    if kind == "instances" and ids and ignore is not None and ignore in values and ids[0] < ignore < ids[-1]:
        return (f"{path.name}: {ignore} is ignored as declared, though it lies among the ids",)
    return ()


def _read_outlines(path: Path, grid: Grid, settings: PrepareSettings, scene: str) -> Labels:
    from geocore.outlines import read_outlines
    from geocore.polygons import rasterise

    names = settings.class_names
    if set(names) != {1} and settings.label_column is None:
        raise DataError(
            f"{path}: outlines have a class only by a column, and class_names lists {sorted(names)}: name the column "
            "with --label-column, or leave class_names out"
        )
    drawn = read_outlines(path, grid, scene=scene, column=settings.label_column, where=parse_where(settings.where))
    values = [_class_of(path, text, settings) for text in drawn.values]
    ids = rasterise(drawn.geometries, grid, "uint32")
    classes = None if set(names) == {1} else np.array([0, *values], np.uint8)[ids]
    count = without_gaps(ids, len(drawn.geometries))
    notes = list(drawn.notes)
    if lost := len(drawn.geometries) - count:
        notes.append(
            f"{path.name}: {lost} of {len(drawn.geometries)} outlines on {scene} are lost: they cover no pixel's "
            "centre that smaller ones leave free"
        )
    return Labels(ids, grid.window, count, "outlines", classes, tuple(notes))


def _class_of(path: Path, text: str, settings: PrepareSettings) -> int:
    """Class that a value of the label column means: one of `class_names`, or its name."""
    for value, name in settings.class_names.items():
        if text.casefold() in (str(value), name.casefold()):
            return value
    known = ", ".join(f"{value} {name}" for value, name in sorted(settings.class_names.items()))
    raise DataError(
        f"{path}: column {settings.label_column} holds {text or 'nothing'!r}, but the classes are {known}: list all "
        "with --class-names, or choose the outlines that count with --where"
    )


def strips_of(height: int) -> Iterator[slice]:
    """Rows of a tall array, some at a time."""
    return (slice(row, min(row + _STRIP_PX, height)) for row in range(0, height, _STRIP_PX))


def _listed(values: Sequence[int], limit: int = 8) -> str:
    rest = len(values) - limit
    return ", ".join(map(str, values[:limit])) + (f" and {rest} more values" if rest > 0 else "")
