"""Pictures as every viewer shows them: upright, and brightness for what a palette numbers or is counted from white."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from geocore.errors import SceneError
from geocore.raster.headers import Header, header_of
from geocore.raster.paths import Location, redacted

Number = TypeVar("Number", bound=np.generic)

_TURNS: Final = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""Orientation -> whether rows and columns are exchanged, then rows and columns reversed (TIFF 6.0, page 36)."""
_NO_BRIGHTNESS: Final = {5: "CMYK", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv"}
"""Photometric interpretations of TIFF."""
_NO_BRIGHTNESS_IN_GDAL: Final = {"CMYK": "CMYK", "YCbCrK": "CMYK", "CIELAB": "CIELab"}
_WHITE_IS_ZERO: Final = 0
_YCBCR: Final = 6
_JPEG: Final = 7
_PROBE_PX: Final = 64
_ROWS: Final = 1024
"""Rows of a picture stored upside down that are decoded at once."""
_SAME: Final = np.arange(256, dtype=np.uint8)[:, np.newaxis]
_AS_STORED: Final = object()
_MASKED: Final = [MaskFlags.per_dataset]
_KEYED: Final = [MaskFlags.per_dataset, MaskFlags.nodata]
"""Flags of bands whose missing pixels GDAL finds by the values of all (RFC 15, NODATA_VALUES)."""
_COLOURS: Final = {1: (ColorInterp.gray,), 3: (ColorInterp.red, ColorInterp.green, ColorInterp.blue)}


@dataclass(frozen=True, slots=True)
class Picture:
    """How the numbers of a file become what viewers show."""

    orientation: int = 1
    """As `Header.orientation`."""
    colours: NDArray[np.uint8] | None = None
    """Shape (number, colour): brightness that a palette gives to a stored number; one colour where all are grey, else
    red, green and blue."""
    seen: NDArray[np.bool_] | None = None
    """Shape (number,): whether a number of the palette is shown at all; None: each is."""
    white: int | None = None
    """The highest number of a file that counts from white, 0, to black."""
    keyed: bool = False
    """Missing pixels are those in which each band has its nodata value, as in PNG files with one transparent colour."""
    opaque: float | None = None
    """Alpha of pixels whose colours are not darkened, where colours are multiplied by alpha."""
    notes: tuple[str, ...] = ()
    """What a person should know, a line each."""

    @property
    def as_stored(self) -> bool:
        """Whether all numbers stay where and what they are."""
        return self.orientation == 1 and self.colours is None and self.white is None

    def shows(self, dataset: Any) -> Any:
        """A rasterio dataset as viewers show it: itself, where that is as it is stored."""
        return dataset if self.as_stored and not self.keyed else ShownDataset(dataset, self)

    def number_of(self, brightness: float | None) -> float | None:
        """The stored number of a brightness that marks missing pixels; None where that is no single one."""
        if brightness is None or self.white is None or not 0 <= brightness <= self.white:
            return None if self.colours is not None else brightness
        return self.white - brightness


def picture_of(dataset: Any, path: Location, *, codes: bool) -> Picture:
    """Find out how a file is shown.

    Of a remote file only what GDAL tells is known: palettes, counting from white, and the orientation of JPEG files.

    Args:
        dataset: an open rasterio dataset.
        path: where it lies.
        codes: its numbers are classes, ids or bits, and stay as stored.

    Raises:
        SceneError: the file holds no brightness, several pages, an orientation that contradicts its georeference, or
            codes that count from white.
    """
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    header = _header(dataset, path)
    _check_readable(dataset, redacted(path), header, structure.get("SOURCE_COLOR_SPACE"))
    alphas = alpha_bands(dataset)
    planes = [i for i in dataset.indexes if i not in set(alphas)] if alphas else list(dataset.indexes)
    from_white = structure.get("MINISWHITE") == "YES" or header.photometric == _WHITE_IS_ZERO
    if from_white and codes:
        raise SceneError(
            f"{redacted(path)}: counts from white (MinIsWhite), so that its numbers are not what viewers show, as "
            "codes must be; if the stored ones are meant: gdal_translate -co PHOTOMETRIC=MINISBLACK IN OUT"
        )
    colours, seen, white, notes = None, None, None, []
    if len(planes) == 1 and dataset.dtypes[planes[0] - 1] in ("uint8", "uint16") and not codes:
        colours, seen = _palette(dataset, planes[0])
        white = (1 << _bits(dataset, planes[0])) - 1 if from_white and colours is None else None
    if from_white and colours is None:
        meant = (
            "means nothing for its bands: they are" if white is None else f"is read as brightness, {white} less what is"
        )
        notes.append(f"{PurePosixPath(redacted(path)).name}: counts from white (MinIsWhite), which {meant} stored")
    opaque = highest_alpha(dataset.dtypes[alphas[0] - 1]) if header.premultiplied and alphas and planes else None
    keyed = "NODATA_VALUES" in dataset.tags() and all(flags == _KEYED for flags in dataset.mask_flag_enums)
    return Picture(header.orientation, colours, seen, white, keyed, opaque, tuple(notes))


def alpha_bands(dataset: Any) -> list[int]:
    """Indexes, from 1, of the bands that a file flags as alpha."""
    # Asked for once: each time rasterio lists the flags of all bands anew.
    return [
        index for index, held in zip(dataset.indexes, dataset.colorinterp, strict=True) if held == ColorInterp.alpha
    ]


def alpha_notes(dataset: Any, name: str, picture: Picture, *, as_band: bool) -> Iterator[str]:
    """What a person should know of a band flagged alpha, if there is one; a few windows of it are looked at.

    Args:
        dataset: as stored.
        name: of the file.
        picture: how it is shown.
        as_band: the band is read as one rather than taken for transparency.
    """
    if ColorInterp.alpha not in dataset.colorinterp:
        return
    index = dataset.colorinterp.index(ColorInterp.alpha) + 1
    rows, cols = dataset.shape
    found = [
        np.unique(dataset.read(index, window=Window(col, row, min(_PROBE_PX, cols), min(_PROBE_PX, rows))))
        for row in _spread(rows)
        for col in _spread(cols)
    ]
    highest = highest_alpha(dataset.dtypes[index - 1])
    # Files of 16 bits often hold 255 for opaque.
    between = np.setdiff1d(np.concatenate(found), [0, 255, highest]).size
    if as_band and not between:
        yield f"{name}: band {index} is flagged alpha and read as a band, though it holds 0 and {highest:g} alone"
    if not as_band and between:
        yield (
            f"{name}: band {index} is flagged alpha and taken for transparency, though it holds {between} values "
            "between: ask for it by number if it is near infrared"
        )
    if not as_band and picture.opaque is not None:
        yield f"{name}: its colours are multiplied by alpha (band {index}): only pixels that are opaque count"


def highest_alpha(dtype: str) -> float:
    """Alpha of an opaque pixel."""
    return 1.0 if np.dtype(dtype).kind == "f" else float(np.iinfo(dtype).max)


class ShownDataset:
    """A rasterio dataset as viewers show it; attributes that are not named here are those of the dataset.

    Args:
        dataset: as stored, or a warped view of it.
        picture: what is done to it.
    """

    def __init__(self, dataset: Any, picture: Picture) -> None:
        self._dataset = dataset
        self._picture = picture
        self._exchanged, self._down, self._across = _TURNS[picture.orientation]
        self._bands: list[tuple[int, int | None]] = []
        """For each band its index in the dataset and, of a palette, its place among the colours."""
        self._alphas = alpha_bands(dataset)
        colours = 0 if picture.colours is None else picture.colours.shape[1]
        for index in dataset.indexes:
            places = range(colours) if colours and index not in self._alphas else (None,)
            self._bands += [(index, place) for place in places]
        self.count = len(self._bands)
        self.indexes = tuple(range(1, self.count + 1))
        self.shape: tuple[int, int] = self._turned_shape(dataset.shape)
        self.height, self.width = self.shape
        self.block_shapes = [self._turned_shape(block) for block in self._each(dataset.block_shapes)]
        if self._down and not self._exchanged:
            # What is stored row by row is decoded from the first on, so that reading upwards begins anew each time.
            self.block_shapes = [
                (min(_ROWS, self.height) if rows == 1 else rows, cols) for rows, cols in self.block_shapes
            ]
        self.descriptions = self._each(dataset.descriptions)
        self.dtypes = self._each(dataset.dtypes, "uint8")
        self.scales, self.offsets = self._each(dataset.scales, 1.0), self._each(dataset.offsets, 0.0)
        self.units = self._each(dataset.units, None)
        self.colorinterp = tuple(
            interp if place is None else _COLOURS[colours][place]
            for interp, (_, place) in zip(self._each(dataset.colorinterp), self._bands, strict=True)
        )
        # The highest number less a brightness is the number, and the other way round.
        self.nodatavals = tuple(map(picture.number_of, self._each(dataset.nodatavals, None)))
        self.mask_flag_enums = self._each(dataset.mask_flag_enums)
        if picture.keyed:
            self.nodatavals, self.mask_flag_enums = (None,) * self.count, (_MASKED,) * self.count
        elif picture.seen is not None:
            self.mask_flag_enums = self._each(dataset.mask_flag_enums, _MASKED)
        self.nodata = self.nodatavals[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def read(self, indexes: int | Sequence[int], *, window: Window, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read bands of one type.

        Args:
            indexes: of the bands, from 1.
            window: lies inside.
            out: shape (band, row, col), or (row, col) for a single index; None: made.

        Returns:
            Shape (band, row, col), or (row, col) for a single index.
        """
        if self._picture.as_stored:
            held: NDArray[Any] = self._dataset.read(indexes, window=window, out=out)
            return held
        bands = [self._bands[index - 1] for index in ([indexes] if isinstance(indexes, int) else indexes)]
        stored = list(dict.fromkeys(index for index, _ in bands))
        values = self._dataset.read(stored, window=self._stored(window))
        values = np.stack([self._shown(values[stored.index(index)], index, place) for index, place in bands])
        values = self._turned(values[0] if isinstance(indexes, int) else values)
        if out is None:
            out = np.empty(values.shape, values.dtype)
        out[...] = values
        return out

    def read_masks(self, indexes: Sequence[int], *, window: Window) -> NDArray[np.uint8]:
        """Where bands are valid: shape (band, row, col), 0 where not."""
        bands, place = [self._bands[index - 1][0] for index in indexes], self._stored(window)
        masks: NDArray[np.uint8] = self._dataset.read_masks(bands, window=place)
        if self._picture.seen is not None:
            masks = np.where(self._picture.seen[self._dataset.read(bands, window=place)], masks, 0)
        return np.ascontiguousarray(self._turned(masks))

    def _shown(self, numbers: NDArray[Any], index: int, place: int | None) -> NDArray[Any]:
        if place is not None:
            assert self._picture.colours is not None
            return np.take(self._picture.colours[:, place], numbers)
        if self._picture.white is None or index in self._alphas:
            return numbers
        brightness: NDArray[Any] = np.subtract(self._picture.white, numbers, dtype=numbers.dtype)
        return brightness

    def _each(self, values: Sequence[Any], colour: Any = _AS_STORED) -> tuple[Any, ...]:
        """What each band has of a property of stored bands; `colour` for those of a palette."""
        return tuple(
            values[index - 1] if place is None or colour is _AS_STORED else colour for index, place in self._bands
        )

    def _turned(self, values: NDArray[Number]) -> NDArray[Number]:
        """Stored rows and columns, the last two axes, put upright."""
        if self._exchanged:
            values = values.swapaxes(-1, -2)
        return values[..., :: -1 if self._down else 1, :: -1 if self._across else 1]

    def _turned_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        return (shape[1], shape[0]) if self._exchanged else (shape[0], shape[1])

    def _stored(self, window: Window) -> Window:
        """Where a window of the upright picture lies in the file."""
        row, col, rows, cols = window.row_off, window.col_off, window.height, window.width
        if self._down:
            row = self.height - row - rows
        if self._across:
            col = self.width - col - cols
        return Window(row, col, rows, cols) if self._exchanged else Window(col, row, cols, rows)


def _header(dataset: Any, path: Location) -> Header:
    if isinstance(path, Path) and path.is_file():
        return header_of(path)
    orientation = dataset.tags().get("EXIF_Orientation", "") if dataset.driver == "JPEG" else ""
    return Header(int(orientation)) if orientation in map(str, _TURNS) else Header()


def _check_readable(dataset: Any, name: str, header: Header, color_space: str | None) -> None:
    """Refuse what has no upright picture of brightness.

    Raises:
        SceneError: as `picture_of`.
    """
    if header.sensor or header.preview:
        raise SceneError(f"{name}: is a camera raw file, of which only a preview could be read: export it as TIFF")
    kind = _NO_BRIGHTNESS.get(header.photometric or 0) or _NO_BRIGHTNESS_IN_GDAL.get(color_space or "")
    if kind is not None:
        raise SceneError(f"{name}: is {kind}, whose numbers are no brightness: save it as RGB or grey")
    if header.pages:
        further = ", ".join(map(str, header.pages[:5])) + (", ..." if len(header.pages) > 5 else "")
        raise SceneError(
            f"{name}: holds {len(header.pages) + 1} pages (1, {further}), and a picture has one: save the one that "
            f"counts by itself: gdal_translate GTIFF_DIR:{header.pages[0]}:IN OUT"
        )
    if header.orientation == 1:
        return
    if dataset.transform != Affine.identity() or dataset.gcps[0]:
        raise SceneError(
            f"{name}: has a georeference and is to be turned (orientation {header.orientation}), of which only one can "
            "be right: if the georeference is, take the orientation out: gdal_translate IN OUT"
        )
    if header.photometric == _YCBCR and header.compression != _JPEG:
        raise SceneError(
            f"{name}: is YCbCr and to be turned (orientation {header.orientation}), which GDAL does by parts: save it "
            "as RGB or grey"
        )


def _palette(dataset: Any, index: int) -> tuple[NDArray[np.uint8] | None, NDArray[np.bool_] | None]:
    """Colours of a band and which of them are seen, as `Picture` holds them; None where numbers are the brightness."""
    numbers = 1 << 8 * np.dtype(dataset.dtypes[index - 1]).itemsize
    # A number without an entry is black, as viewers show it.
    table, seen = np.zeros((numbers, 3), np.uint8), np.ones(numbers, np.bool_)
    interpretation = dataset.colorinterp[index - 1]
    if interpretation == ColorInterp.palette:
        entries = dataset.colormap(index)
        held = np.fromiter(entries, np.int64, len(entries))
        colours = np.array(list(entries.values()), np.uint8)
        table[held], seen[held] = colours[:, :3], colours[:, 3] > 0
    elif dataset.driver == "PNG" and interpretation == ColorInterp.gray and _bits(dataset, index) < 8:
        # Grey of few bits reaches from black to white all the same (PNG 3.0, 13.12).
        count = 1 << _bits(dataset, index)
        table[:count] = np.linspace(0, 255, count)[:, np.newaxis]
    else:
        return None, None
    nodata = dataset.nodatavals[index - 1]
    if nodata is not None and 0 <= nodata < numbers:
        seen[int(nodata)] = False
    if (table == table[:, :1]).all():
        table = table[:, :1]
    if numbers == len(_SAME) and (table == _SAME).all() and seen.all():
        return None, None
    return table, None if seen.all() else seen


def _bits(dataset: Any, index: int) -> int:
    """Bits that a number of a band is stored in."""
    stated = dataset.tags(index, ns="IMAGE_STRUCTURE").get("NBITS")
    return int(stated) if stated else 8 * int(np.dtype(dataset.dtypes[index - 1]).itemsize)


def _spread(length: int) -> list[int]:
    """First pixels of up to three windows along an axis."""
    last = max(0, length - _PROBE_PX)
    return sorted({0, last // 2, last})
