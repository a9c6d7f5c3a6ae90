"""Labels of a scene, whatever their form, as instance ids on the scene's grid.

A label is a raster (of one of three kinds) or a file of outlines. In a raster 0 is background, whatever the file calls
nodata, a declared class is a class, and what else the file calls nodata is ignored, as is the value declared with
`ignore`; 255 may be a slump. Objects of binary and class rasters are 8-connected components. Files are read by strips,
to save memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.datasets.labels import Census, check_mask, open_label
from geocore.errors import DataError
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import Scene
from geocore.vector.attributes import parse_where
from geocore.vector.polygonize import components
from slumps_detectron2.burn_in import covered, offset
from slumps_detectron2.config import PrepareSettings

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


def read_labels(
    path: Path, grid: Grid, settings: PrepareSettings, *, scene: str = "the scene", image: Scene | None = None
) -> Labels:
    """Read a label raster or outlines.

    Args:
        path: GeoPackage, Shapefile, GeoJSON or GeoParquet of outlines, or else a raster of whole numbers.
        grid: of the scene.
        settings: kind of the raster, its classes, the ignored value, whether a raster may cover a part only, and which
            outlines count as what.
        scene: its name, for messages.
        image: the scene, so that a label that is its image is told; None: not looked at.

    Raises:
        DataError: the label does not lie on the scene's pixels, is no mask, or holds values that are not declared; or
            as of `geocore.vector.outlines.read_outlines`.
    """
    from geocore.vector.outlines import OUTLINE_EXTENSIONS

    if path.suffix.lower() in OUTLINE_EXTENSIONS:
        return _read_outlines(path, grid, settings, scene)
    classes = (0, *settings.class_names) if settings.label_kind == "classes" else (0,)
    return _read_raster(path, grid, settings, scene, image, classes)


def _read_raster(
    path: Path, grid: Grid, settings: PrepareSettings, scene: str, image: Scene | None, classes: Collection[int]
) -> Labels:
    kind, ignore = settings.label_kind, settings.ignore
    with open_label(path, layer=_LABEL, classes=classes) as label:
        window = covered(path, label.grid, grid, scene, like=settings.like)
        source = _Source(label, window, *offset(label.grid, grid), ignore)
        census = check_mask(
            path,
            label,
            scene,
            image,
            classes={*classes, *([] if ignore is None else [ignore])} if kind == "classes" else None,
            instances=kind == "instances",
            window=source.place,
        )
        values = [value for value in census.pixels if value not in (0, ignore)]
        only_nodata = not values and census.missing_px and not set(census.missing) <= {0, ignore}
        if only_nodata and kind == "binary":
            # Whoever says that all but 0 is a slump cannot mean nothing.
            return _read_raster(path, grid, settings, scene, image, (*classes, *census.missing))
        _check_nodata(path, census, ignore, only_nodata=bool(only_nodata))
        found = _checked_kind(path, values, census, settings)
        ids, count, kinds = _objects(source, found, values, settings)
    return Labels(ids, window, count, found, kinds, _suspicions(path, found, values, census, ignore))


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
    ignore: int | None
    """Value of pixels that do not count."""

    @property
    def place(self) -> Window:
        """Pixels of the label raster."""
        return self.window.shifted(-self.down, -self.right)

    def strips(self) -> Iterator[tuple[slice, npt.NDArray[Any], npt.NDArray[np.bool_]]]:
        """Rows of the window, their values, and which of them count; both of shape (row, col)."""
        for rows in strips_of(self.window.height):
            part = Window(self.place.row + rows.start, self.place.col, rows.stop - rows.start, self.place.width)
            patch = self.label.read_layers(part)[_LABEL]
            values, known = patch.values[0], patch.valid[0]
            yield rows, values, known if self.ignore is None else known & (values != self.ignore)


def _check_nodata(path: Path, census: Census, ignore: int | None, *, only_nodata: bool) -> None:
    """Refuse a raster of which it is not clear whether nodata means background, a slump, or nothing.

    Raises:
        DataError: nodata is the only mark, or there is nodata but no background.
    """
    called = ", ".join(map(str, census.missing))
    if only_nodata and 0 in census.pixels:
        raise DataError(
            f"{path}: {called} is its only mark and its nodata value: give --label-kind binary if these "
            f"{census.missing_px} pixels are slumps, or --ignore {census.missing[0]} if nobody looked at them"
        )
    if census.missing_px and 0 not in census.pixels and ignore not in census.missing:
        remedy = (
            "drop its transparency (gdal_translate -b 1 -mask none IN OUT.tif)"
            if 0 in census.missing
            else f"write 0 there (gdalwarp -srcnodata {census.missing[0]} -dstnodata 0 IN OUT.tif), or say --ignore "
            f"{census.missing[0]} if nobody looked at them"
        )
        raise DataError(
            f"{path}: has no background: {census.missing_px} pixels are nodata ({called}), and no other is 0; if there "
            f"is no slump in them, {remedy}"
        )


def _checked_kind(path: Path, marked: Sequence[int], census: Census, settings: PrepareSettings) -> str:
    """The kind of a raster, once its values fit it; `marked` are those that count and are no background."""
    kind = settings.label_kind
    if marked and marked[0] < 0:
        raise DataError(
            f"{path}: holds {_listed([v for v in marked if v < 0])}: a label value is 0 or above; give --ignore "
            f"{marked[0]} if that marks pixels nobody looked at"
        )
    if kind is None:
        if not set(marked) <= {255}:
            raise DataError(
                f"{path}: holds {_listed([*census.pixels])}: only 0 and 255 are clear without a word; give "
                "--label-kind binary, classes or instances, and --ignore VALUE where a value marks pixels nobody "
                "looked at"
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
    source: _Source, kind: str, marked: Sequence[int], settings: PrepareSettings
) -> tuple[Ids, int, npt.NDArray[np.uint8] | None]:
    shape = source.window.shape
    classes: npt.NDArray[np.uint8] | None = None
    count = 0
    if kind == "instances":
        ids = np.zeros(shape, np.uint32)
        count = len(marked)
        for rows, strip, known in source.strips():
            inside = (strip != 0) & known
            # In the raster's own type: numpy mixes large and small integers as floats.
            ids[rows][inside] = np.searchsorted(np.array(marked, strip.dtype), strip[inside]) + 1
    elif kind == "classes" and set(settings.class_names) != {1}:
        classes = np.zeros(shape, np.uint8)
        for rows, strip, known in source.strips():
            # What does not count may not fit the type; it is dealt with below.
            classes[rows] = np.where(known, strip, 0)
        ids = np.zeros(shape, np.uint32)
        for value in sorted(settings.class_names):
            found = components(classes == value)
            largest = int(found.max())
            np.add(found, np.uint32(count), out=found, where=found > 0)
            ids |= found
            count += largest
    else:
        mask = np.zeros(shape, bool)
        for rows, strip, known in source.strips():
            mask[rows] = (strip != 0) & known
        ids = components(mask)
        count = int(ids.max())
    for rows, _, known in source.strips():
        ids[rows][~known] = IGNORED
        if classes is not None:
            classes[rows][~known] = UNLABELLED
    return ids, count, classes


def _suspicions(path: Path, kind: str, ids: Sequence[int], census: Census, ignore: int | None) -> tuple[str, ...]:
    notes = []
    if kind == "instances" and ids and ignore is not None and ignore in census.pixels and ids[0] < ignore < ids[-1]:
        notes.append(f"{path.name}: {ignore} is ignored as declared, though it lies among the ids")
    if census.missing_px:
        values = ", ".join(map(str, census.missing))
        notes.append(f"{path.name}: {census.missing_px} pixels are nodata ({values}): they neither train nor score")
    return tuple(notes)


def _read_outlines(path: Path, grid: Grid, settings: PrepareSettings, scene: str) -> Labels:
    from geocore.vector.features import rasterize
    from geocore.vector.outlines import read_outlines

    names = settings.class_names
    if set(names) != {1} and settings.label_column is None:
        raise DataError(
            f"{path}: outlines have a class only by a column, and class_names lists {sorted(names)}: name the column "
            "with --label-column, or leave class_names out"
        )
    drawn = read_outlines(path, grid, scene=scene, column=settings.label_column, where=parse_where(settings.where))
    values = [_class_of(path, text, settings) for text in drawn.values]
    ids = rasterize(drawn.geometries, grid, "uint32")
    classes = None if set(names) == {1} else np.array([0, *values], np.uint8)[ids]
    count = without_gaps(ids, len(drawn.geometries))
    notes = list(drawn.notes)
    if lost := len(drawn.geometries) - count:
        notes.append(
            f"{path.name}: {lost} of {len(drawn.geometries)} outlines on {scene} are lost: they cover no pixel's "
            "centre that smaller ones leave free"
        )
    return Labels(ids, grid.whole, count, "outlines", classes, tuple(notes))


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
