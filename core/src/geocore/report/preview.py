"""The picture that prepare leaves in a data set: samples beside themselves with their labels drawn on.

It is for what no number tells: a mask that belongs to another image, a label that is shifted, bands in another order.
Each sample is shown twice or more, as it is and once for each label: transparent colours of the classes, outlines of
what lies side by side, stripes where nothing is labelled. All pictures have whole pixels, nothing is smoothed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from geocore.raster.grid import Window
from geocore.raster.scene import Scene
from geocore.raster.write import Colour
from geocore.storage.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = npt.NDArray[np.uint8]
"""Shape (row, col, 3), uint8, sRGB."""

OUTSIDE: Final[Colour] = (72, 76, 84)
"""Pixels without data."""
_REACH: Final = 2.5
"""Interquartile ranges; of a normal distribution, none of its percentiles 0.1 to 99.9 lies as far out."""
DPI: Final = 100
"""Pixels of a figure per inch."""


def stretched(
    values: npt.NDArray[Any], valid: npt.NDArray[np.bool_], *, percentiles: tuple[float, float] = (2, 98)
) -> Picture:
    """Colours of an image, each channel stretched to its own percentiles.

    Values further from the median than 2.5 times the interquartile range stretch nothing: a scene with a few per cent
    of clouds would else be black.

    Args:
        values: shape (3, row, col), any real dtype: red, green, blue; or (1, row, col): grey.
        valid: shape (row, col), bool; other pixels get the colour `OUTSIDE` and count for nothing.
        percentiles: of a channel that become 0 and 255.
    """
    picture = np.empty((*valid.shape, 3), np.uint8)
    for channel, band in enumerate(values):
        counted = valid & np.isfinite(band) if band.dtype.kind == "f" else valid
        low, high = _limits(band[counted], percentiles) if counted.any() else (0.0, 1.0)
        share = (np.where(counted, band, low) - low) / max(high - low, 1e-9)
        # Of a grey image all three.
        picture[..., channel : channel + 1 if len(values) == 3 else 3] = np.rint(255 * np.clip(share, 0, 1))[..., None]
    picture[~valid] = OUTSIDE
    return picture


def _limits(pixels: npt.NDArray[Any], percentiles: tuple[float, float]) -> tuple[float, float]:
    low, first, middle, third, high = map(float, np.percentile(pixels, (percentiles[0], 25, 50, 75, percentiles[1])))
    reach = _REACH * (third - first)
    return (max(low, middle - reach), min(high, middle + reach)) if reach > 0 else (low, high)


def edges(regions: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Pixels that have one of another region above, below, left or right.

    Args:
        regions: shape (row, col), integer: number of the region.

    Returns:
        Shape (row, col), bool; an edge is two pixels wide, one on either side.
    """
    found = np.zeros(regions.shape, bool)
    down, right = regions[1:] != regions[:-1], regions[:, 1:] != regions[:, :-1]
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def new_figure(width_in: float, height_in: float) -> Figure:
    """A white figure that belongs to no window and to no list of open figures; inches of `DPI` pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def rendered(figure: Figure) -> Picture:
    """The pixels of a figure of `new_figure`."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_picture(path: Path, picture: Picture) -> None:
    """Write a PNG at once or not at all.

    Raises:
        StorageError: the disk is full or closed.
    """
    from matplotlib.image import imsave

    with atomic_path(path) as temporary:
        imsave(temporary, picture, format="png")


SIDE_PX: Final = 480
"""Longer side of the largest pictures; more pixels of a sample need not be read."""
UNLABELLED: Final = 255
"""Class of pixels that neither train nor score."""

CLASS_COLOURS: Final[tuple[Colour, ...]] = (
    (0, 220, 255),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (240, 228, 66),
    (0, 114, 178),
)
"""Of classes that have none of their own: told apart by the colour-blind too (after Okabe and Ito 2008); the first one
is seen on water, ice, bare ground and plants alike."""

_WIDTH_PX: Final = 1900
_PICTURES: Final = 6
"""In a row, about."""
_TINT: Final = 0.35
_STRONG_TINT: Final = 0.55
"""Of classes that cover all of an image in colour, where they would else mix with it; it stands beside."""
_STRIPES: Final[Colour] = (225, 225, 225)
_STRIPE_PX: Final = 8
_MARGIN_PX, _GAP_PX, _LINE_PX = 14, 4, 20
_TEXT_PT, _SMALL_PT = 10.5, 9.5
_READ_PX: Final = 1 << 22
"""Pixels read at once."""


@dataclass(frozen=True, slots=True)
class Marks:
    """A label of a sample."""

    classes: npt.NDArray[np.uint8]
    """Shape (row, col), uint8: class, `UNLABELLED` where none is known."""
    regions: npt.NDArray[np.integer[Any]] | None = None
    """Shape (row, col), integer: what is outlined within a class too, such as objects; None: classes alone are."""


@dataclass(frozen=True, slots=True)
class Preview:
    """A sample as it is drawn."""

    title: str
    values: npt.NDArray[Any]
    """Shape (3, row, col), any real dtype: red, green, blue; or (1, row, col): grey. Stretched before it is drawn."""
    valid: npt.NDArray[np.bool_]
    """Shape (row, col), bool."""
    marks: Mapping[str, Marks] = field(default_factory=dict)
    """Label -> what is known; the same labels in all samples."""


@dataclass(frozen=True, slots=True)
class ClassKey:
    """How a class is drawn."""

    name: str
    """In the legend; empty: it is not listed."""
    colour: Colour | None
    """None: the image stays as it is, as for a background."""


Keys = Mapping[str, Mapping[int, ClassKey]]
"""Label -> class -> how it is drawn."""


def class_keys(names: Mapping[int, str], *, background: int | None = None) -> dict[int, ClassKey]:
    """Classes in colours of their order, after the last one from the start.

    Args:
        names: value and name of each class.
        background: class that is not coloured.
    """
    coloured = [value for value in names if value != background]
    return {
        value: ClassKey(
            name, None if value == background else CLASS_COLOURS[coloured.index(value) % len(CLASS_COLOURS)]
        )
        for value, name in names.items()
    }


def colours_shown(names: Sequence[str]) -> str:
    """What a picture shows, in words.

    Args:
        names: of the bands shown as red, green and blue; one, or one thrice: grey.
    """
    if len(set(names)) == 1:
        return f"band {names[0]} in grey"
    lower = [name.lower() for name in names]
    return "true colour" if lower == ["red", "green", "blue"] else f"{', '.join(names)} as red, green, blue"


def samples_a_row(labels: int) -> int:
    """How many samples with so many labels stand side by side, and so how many of a split are shown."""
    return max(2, _PICTURES // (1 + labels))


def draw_previews(rows: Sequence[Sequence[Preview]], keys: Keys, *, heading: str = "") -> Picture:
    """Draw samples in rows above a legend.

    Args:
        rows: such as a row for each split; samples of any sizes, the longer side at least 1 px.
        keys: of all labels of the samples.
        heading: line above all, plain text.

    Returns:
        Shape (row, col, 3), uint8, at most about 1900 px wide.
    """
    rows = [row for row in rows if row]
    pictures = 1 + len(keys)
    columns = max(map(len, rows), default=1) * pictures
    side = min(SIDE_PX, (_WIDTH_PX - _MARGIN_PX * (columns // pictures + 1)) // columns - _GAP_PX)
    page = _Page(columns // pictures * (pictures * (side + _GAP_PX) + _MARGIN_PX) + _MARGIN_PX)
    if heading:
        page.text(heading, _MARGIN_PX, page.height, page.width - 2 * _MARGIN_PX, size=_TEXT_PT)
        page.height += _MARGIN_PX // 2
    found: set[str] = set()
    for row in rows:
        top = page.height
        for number, preview in enumerate(row):
            left = _MARGIN_PX + number * (pictures * (side + _GAP_PX) + _MARGIN_PX)
            page.text(preview.title, left, top, pictures * (side + _GAP_PX) - _GAP_PX, size=_TEXT_PT, bold=True)
            below = top + _LINE_PX
            fitted = _fitted(preview, side)
            image = stretched(fitted.values, fitted.valid)
            width = image.shape[1] + _GAP_PX
            if len(keys) > 1:
                for place, name in enumerate(keys, start=1):
                    page.text(name, left + place * width, below, width, size=_SMALL_PT)
                below += _LINE_PX
            page.picture(image, left, below)
            found |= set() if fitted.valid.all() else {"no data"}
            for place, (name, key) in enumerate(keys.items(), start=1):
                marked = _marked(fitted, image, name, key)
                page.picture(marked, left + place * width, below)
                found |= {"not labelled"} if _unlabelled(fitted.valid, fitted.marks[name]).any() else set()
        page.height += _MARGIN_PX
    for name, key in keys.items():
        page.legend(name if len(keys) > 1 else "", {k.name: k.colour for k in key.values() if k.name})
    patches = {"no data": OUTSIDE, "not labelled": None}
    page.legend("", {name: colour for name, colour in patches.items() if name in found}, striped="not labelled")
    return page.drawn()


def read_reduced(
    scene: Scene,
    layer: str,
    bands: Sequence[int],
    *,
    period: int = 0,
    window: Window | None = None,
    side_px: int = SIDE_PX,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Read an image at the size of a preview, as means over blocks of pixels, in bounded memory.

    Args:
        scene: opened.
        layer: of ratio 1.
        bands: positions of the bands wanted.
        period: of a layer with times, from 0.
        window: pixels to show, inside the scene; None: all.
        side_px: the longer side is not to be larger; a smaller image stays as it is.

    Returns:
        Values, shape (band, row, col), float32, 0 where invalid; valid, shape (row, col), bool: at least half of a
        block's pixels have all these bands.

    Raises:
        SceneError: the file cannot be read.
    """
    window = window or scene.grid.whole
    rows, cols = (_starts(length, max(window.shape), side_px) for length in window.shape)
    values = np.zeros((len(bands), len(rows), len(cols)), np.float32)
    valid = np.zeros((len(rows), len(cols)), np.bool_)
    stops = np.append(rows[1:], window.height)
    step = max(1, int(_READ_PX // (window.width * np.diff(rows, append=window.height).max())))
    for first in range(0, len(rows), step):
        taken = slice(first, first + step)
        start, stop = int(rows[first]), int(stops[taken][-1])
        patch = scene.read_layers(Window(window.row + start, window.col, stop - start, window.width), [layer])[layer]
        times = scene.layers[layer].times
        held, known = (patch.values[period], patch.valid[period]) if times else (patch.values, patch.valid)
        stored: npt.NDArray[np.float32] = held[list(bands)].astype(np.float32)
        known = known if len(known) == 1 else known[list(bands)]
        counted: npt.NDArray[np.bool_] = np.logical_and.reduce(known & np.isfinite(stored), axis=0)
        at = (rows[taken] - start, cols)
        pixels = _block_sums(np.ones(counted.shape, np.float32), *at)
        number = _block_sums(counted.astype(np.float32), *at)
        stored[:, ~counted] = 0
        for band in range(len(bands)):
            values[band, taken] = _block_sums(stored[band], *at) / np.maximum(number, 1)
        valid[taken] = 2 * number >= pixels
    return values, valid


def thinned(label: npt.NDArray[Any], side_px: int = SIDE_PX) -> npt.NDArray[Any]:
    """A label at the size that `read_reduced` gives its image: the pixel in the middle of each block.

    Args:
        label: shape (row, col), any dtype; may lie on disk.
        side_px: as of `read_reduced`.
    """
    rows, cols = (_middles(length, max(label.shape), side_px) for length in label.shape)
    return np.asarray(label[rows][:, cols])


def _starts(length: int, longest: int, side_px: int) -> npt.NDArray[np.intp]:
    """First pixel of each block along an axis."""
    count = max(1, round(length * min(1.0, side_px / longest)))
    starts: npt.NDArray[np.intp] = np.arange(count) * length // count
    return starts


def _middles(length: int, longest: int, side_px: int) -> npt.NDArray[np.intp]:
    starts = _starts(length, longest, side_px)
    middles: npt.NDArray[np.intp] = (starts + np.append(starts[1:], length)) // 2
    return middles


def _block_sums(
    plane: npt.NDArray[np.float32], rows: npt.NDArray[np.intp], cols: npt.NDArray[np.intp]
) -> npt.NDArray[np.float32]:
    sums: npt.NDArray[np.float32] = np.add.reduceat(np.add.reduceat(plane, rows, axis=0), cols, axis=1)
    return sums


def _fitted(preview: Preview, side: int) -> Preview:
    """The sample so large that its longer side fits: thinned, or enlarged by a whole number."""
    longest = max(preview.valid.shape)
    rows, cols = (_middles(length, longest, side).repeat(max(1, side // longest)) for length in preview.valid.shape)
    marks = {
        name: Marks(
            mark.classes[rows][:, cols],
            None if mark.regions is None else mark.regions[rows][:, cols],
        )
        for name, mark in preview.marks.items()
    }
    return Preview(preview.title, preview.values[:, rows][:, :, cols], preview.valid[rows][:, cols], marks)


def _unlabelled(valid: npt.NDArray[np.bool_], marks: Marks) -> npt.NDArray[np.bool_]:
    unlabelled: npt.NDArray[np.bool_] = valid & (marks.classes == UNLABELLED)
    return unlabelled


def _marked(preview: Preview, image: Picture, label: str, key: Mapping[int, ClassKey]) -> Picture:
    """The image with a label drawn on."""
    marks, valid = preview.marks[label], preview.valid
    drawn = image.copy()
    lined = edges(marks.classes)
    if marks.regions is not None:
        lined |= edges(marks.regions)
    # Neighbours that are all coloured draw a side of a line each; what lies on a background draws both.
    covering = all(its.colour is not None for its in key.values())
    if not covering:
        lined |= edges(lined.astype(np.uint8))
    tint = _STRONG_TINT if covering and len(preview.values) == 3 else _TINT
    for number, its in key.items():
        if its.colour is None:
            continue
        inside = valid & (marks.classes == number)
        drawn[inside] = np.rint((1 - tint) * image[inside] + tint * np.asarray(its.colour))
        drawn[inside & lined] = its.colour
    rows, cols = np.indices(valid.shape)
    drawn[_unlabelled(valid, marks) & ((rows + cols) % _STRIPE_PX < 2)] = _STRIPES
    return drawn


class _Page:
    """A page that grows downwards."""

    def __init__(self, width: int) -> None:
        self.width, self.height = width, _MARGIN_PX
        """Pixels; what comes next begins below `height`."""
        self._pictures: list[tuple[Picture, int, int]] = []
        self._texts: list[tuple[str, int, int, float, bool]] = []
        self._renderer: Any = None

    def picture(self, picture: Picture, left: int, top: int) -> None:
        """Put a picture with its upper left corner at a pixel."""
        self._pictures.append((picture, left, top))
        self.height = max(self.height, top + len(picture) + _GAP_PX)

    def text(self, text: str, left: int, top: int, width: int, *, size: float, bold: bool = False) -> None:
        """Put a line of text, shortened in its middle to a width in pixels."""
        shown, keep = text, len(text)
        while keep > 4 and (length := self._length(shown, size, bold)) > width:
            keep = min(keep - 1, keep * width // length + 1)
            shown = f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"
        self._texts.append((shown, left, top, size, bold))
        self.height = max(self.height, top + _LINE_PX)

    def legend(self, name: str, entries: Mapping[str, Colour | None], *, striped: str = "") -> None:
        """Put coloured boxes with names below all there is, in as many lines as needed."""
        if not entries:
            return
        box, left, top = _LINE_PX - 8, _MARGIN_PX, self.height
        if name:
            self.text(name, left, top, self.width, size=_SMALL_PT, bold=True)
            left += self._length(name, _SMALL_PT, True) + _MARGIN_PX
        for entry, colour in entries.items():
            length = box + 6 + self._length(entry, _SMALL_PT, False)
            if left + length > self.width - _MARGIN_PX and left > _MARGIN_PX:
                left, top = _MARGIN_PX, self.height
            swatch = np.full((box, box + 6, 3), 255, np.uint8)
            swatch[:, :box] = 60
            swatch[1:-1, 1 : box - 1] = (245, 245, 245) if colour is None else colour
            if entry == striped:
                rows, cols = np.indices((box - 2, box - 2))
                swatch[1:-1, 1 : box - 1] = np.where(((rows + cols) % 4 < 1)[..., None], 60, 235)
            self._pictures.append((swatch, left, top + 3))
            self.text(entry, left + box + 6, top, self.width, size=_SMALL_PT)
            left += length + _MARGIN_PX
        self.height = top + _LINE_PX + _GAP_PX

    def drawn(self) -> Picture:
        """All of it."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        height = self.height + _MARGIN_PX
        sheet = np.full((height, self.width, 3), 255, np.uint8)
        for picture, left, top in self._pictures:
            sheet[top : top + len(picture), left : left + picture.shape[1]] = picture
        made = Figure(figsize=(self.width / DPI, height / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(made)
        made.figimage(sheet, origin="upper")
        for text, left, top, size, bold in self._texts:
            weight = "bold" if bold else "normal"
            # Names of files may hold a dollar sign, which is no formula.
            made.text(
                left / self.width,
                1 - (top + _LINE_PX / 2) / height,
                text,
                fontsize=size,
                fontweight=weight,
                va="center",
                parse_math=False,
            )
        return rendered(made)

    def _length(self, text: str, size: float, bold: bool) -> int:
        """Pixels that a text is long."""
        from matplotlib.backends.backend_agg import RendererAgg
        from matplotlib.font_manager import FontProperties

        if self._renderer is None:
            untyped: Any = RendererAgg
            self._renderer = untyped(1, 1, DPI)
        font = FontProperties(size=size, weight="bold" if bold else "normal")
        return int(np.ceil(self._renderer.get_text_width_height_descent(text, font, False)[0]))
