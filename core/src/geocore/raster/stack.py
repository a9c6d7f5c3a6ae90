"""One layer from several files on several grids: bands by name, brought to one grid as they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from geocore.errors import SceneError
from geocore.raster.align import Interpolation, Warp, WarpedReader, integer_ratio
from geocore.raster.bands import Bands
from geocore.raster.declarations import NOTHING, Declaration, ResolvedBand
from geocore.raster.geotiff import RasterReader
from geocore.raster.grid import Grid, Window
from geocore.raster.ground import pixel_side_m
from geocore.raster.paths import Location, redacted
from geocore.raster.scene import Layer, Patch, Scene, notes_of

_BLOCK = (256, 512)
"""Rows and columns that are warped at once: few enough to wait little for a small window."""


@dataclass(frozen=True, slots=True)
class BandRef:
    """Where one band of a scene lies and what its numbers mean."""

    path: Location
    band: str = "1"
    """Description in the file, or number from 1."""
    given: Declaration = NOTHING
    """Counts before what the file says: of a list that somebody wrote."""
    usual: Declaration = NOTHING
    """Counts where the file says nothing: of the product that it belongs to."""
    interpolation: Interpolation = "bilinear"
    """Where the file has another CRS or pixels that do not nest; nearest for classes and quality bits, which also stay
    the numbers that they are where the file has a palette."""


class BandStack:
    """A layer of bands from several files, all on one grid.

    A file on the grid is read as it is. One whose pixels are a whole number of the grid's wide, from the same corner,
    is repeated: every pixel keeps its number. Any other is warped, and invalid where the file does not reach.

    Args:
        files: band name -> where it lies; in the order of the layer's bands.
        grid: of the layer; None: the finest of the files' own.
        layer: name of the layer.

    Raises:
        SceneError: a file cannot be opened or brought to the grid, or lacks its band.
    """

    def __init__(self, files: Mapping[str, BandRef], *, grid: Grid | None = None, layer: str = "image") -> None:
        if not files:
            raise ValueError("a stack needs a band")
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name, file in files.items():
            groups.setdefault((file.path, file.interpolation), []).append(name)
        order = list(files)
        resolved: dict[str, ResolvedBand] = {}
        self._members: list[tuple[RasterReader | UpsampledReader | WarpedReader, list[int]]] = []
        with ExitStack() as opened:
            natives = [
                opened.enter_context(closing(_open([files[name] for name in names]))) for names in groups.values()
            ]
            self.grid = grid or finest([native.grid for native in natives])
            for native, names in zip(natives, groups.values(), strict=True):
                for name, resolution in zip(names, native.resolved, strict=True):
                    band = dataclasses.replace(resolution.band, name=name)
                    resolved[name] = dataclasses.replace(resolution, band=band)
                for part in _onto(self.grid, native, {name: files[name] for name in names}):
                    opened.enter_context(closing(part[0]))
                    self._members.append((part[0], [order.index(name) for name in part[1]]))
            self._opened = opened.pop_all()
        self.resolved = tuple(resolved[name] for name in order)
        """What was decided of each band."""
        self._dtype = np.result_type(*(native.layer.dtype for native in natives))
        self.layer = Layer(layer, Bands(tuple(resolution.band for resolution in self.resolved)), self._dtype.name)
        self.shape = self.grid.shape
        blocks = [member.block for member, _ in self._members if not isinstance(member, UpsampledReader)]
        # Blocks of coarse files are large on this grid and hold few pixels: to read one twice costs little.
        blocks = blocks or [member.block for member, _ in self._members]
        self.block: tuple[int, int] = (max(rows for rows, _ in blocks), max(cols for _, cols in blocks))

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on how files were read."""
        return tuple(dict.fromkeys(note for member, _ in self._members for note in notes_of(member)))

    def read(self, window: Window) -> Patch:
        """Read a window that lies inside.

        Raises:
            SceneError: a file is damaged there.
        """
        if len(self._members) == 1:
            return self._members[0][0].read(window)
        shape = (len(self.layer.bands), *window.shape)
        values, valid = np.empty(shape, self._dtype), np.empty(shape, np.bool_)
        for member, places in self._members:
            patch = member.read(window)
            values[places], valid[places] = patch.values, patch.valid
        return Patch(values, valid)

    def close(self) -> None:
        """Close all files."""
        self._opened.close()


class UpsampledReader:
    """A coarse layer on a finer grid: each of its pixels stands `ratio` times in both directions.

    Args:
        source: the coarse layer.
        ratio: pixels of the finer grid per pixel of the layer, along an axis.
        shape: (rows, cols) of the finer grid, which the layer covers.
    """

    def __init__(self, source: RasterReader, ratio: int, shape: tuple[int, int]) -> None:
        self.layer = source.layer
        self.shape = shape
        self.block = (source.block[0] * ratio, source.block[1] * ratio)
        self._source, self._ratio = source, ratio

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on how files were read."""
        return notes_of(self._source)

    def read(self, window: Window) -> Patch:
        """Read a window that lies inside.

        Raises:
            SceneError: the file is damaged there.
        """
        coarse = window.coarser(self._ratio)
        patch = self._source.read(coarse)
        rows = np.arange(window.row, window.row_stop) // self._ratio - coarse.row
        cols = np.arange(window.col, window.col_stop) // self._ratio - coarse.col
        return Patch(patch.values.take(cols, -1).take(rows, -2), patch.valid.take(cols, -1).take(rows, -2))

    def close(self) -> None:
        """Close the layer."""
        self._source.close()


def open_stack(name: str, files: Mapping[str, BandRef | Location], *, reference: str | None = None) -> Scene:
    """Open several files as a scene of one layer, `image`.

    Args:
        name: of the scene.
        files: band name -> the file that holds it, or where in a file it lies; in the order of the layer's bands.
        reference: the band whose grid is the scene's; None: the finest grid of all.

    Raises:
        SceneError: a file cannot be opened or brought to the grid, or lacks its band; or the reference is no band.
    """
    described = {band: file if isinstance(file, BandRef) else BandRef(file) for band, file in files.items()}
    if reference is not None and reference not in described:
        raise SceneError(f"scene {name} has no band {reference!r}: the reference must be one of {', '.join(described)}")
    source = BandStack(described, grid=None if reference is None else grid_of_file(described[reference]))
    return Scene(name, source.grid, {source.layer.name: source})


def grid_of_file(file: BandRef) -> Grid:
    """The grid that a band is stored on.

    Raises:
        SceneError: the file cannot be opened.
    """
    with closing(_open([file])) as source:
        return source.grid


def finest(grids: Sequence[Grid]) -> Grid:
    """The grid with the smallest pixels by ground, where all have a transform; else the one with most pixels."""
    sides = [pixel_side_m(grid) if grid.transform is not None else None for grid in grids]
    known = [side for side in sides if side is not None]
    if len(known) < len(grids):
        return max(grids, key=lambda grid: grid.height * grid.width)
    return grids[known.index(min(known))]


def _open(files: Sequence[BandRef], warp: Warp | None = None) -> RasterReader:
    """The bands of one file."""
    names, given, usual = zip(*((file.band, file.given, file.usual) for file in files), strict=True)
    codes = files[0].interpolation == "nearest"
    source = RasterReader(files[0].path, bands=names, given=given, usual=usual, warp=warp, codes=codes)
    if names == ("1",) and source.picture.colours is not None and len(source.names) > 1:
        source.close()
        raise SceneError(
            f"{redacted(files[0].path)}: has a palette of colours, of which one band would be red: list it with "
            "`interpolation: nearest` if its numbers are classes, else with its bands 1, 2 and 3"
        )
    return source


def _onto(
    grid: Grid, native: RasterReader, files: Mapping[str, BandRef]
) -> Iterator[tuple[RasterReader | UpsampledReader | WarpedReader, list[str]]]:
    """The bands of a file on a grid: sources, each with the names of its bands."""
    ratio = integer_ratio(grid, native.grid, redacted(native.path))
    if ratio == 1:
        yield native, list(files)
        return
    if ratio is not None:
        yield UpsampledReader(native, ratio, grid.shape), list(files)
        return
    native.close()
    # Bands are warped together only where one value marks what is missing in them.
    alike: dict[str, list[str]] = {}
    for name, resolution in zip(files, native.resolved, strict=True):
        alike.setdefault(repr(resolution.band.nodata), []).append(name)
    for names in alike.values():
        chosen = [files[name] for name in names]
        yield WarpedReader(_open(chosen, Warp(grid, chosen[0].interpolation)), _BLOCK), names
