"""Map a scene with a network of one's own: tiles, blending, classes and products in one call.

    predict("scene.tif", network, "water.tif", classes=["land", "water"], normalize=dataset.statistics())

It puts together what the commands are made of (`inference.tiled`, `inference.blend`, `inference.outputs`) and adds no
arithmetic: on one device, with one batch size and precision, pixels are the same to the bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from geocore.datasets.batch import VALID
from geocore.datasets.shift import look_over
from geocore.datasets.statistics import Statistics
from geocore.device import DeviceContext
from geocore.errors import DataError, SettingsError
from geocore.inference.blend import OutputHead, OverlapBlender
from geocore.inference.outputs import argmax_labels, margin, normalized_entropy, to_percent
from geocore.inference.tiled import predict_tiles
from geocore.inference.tta import flip_average
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.products import SceneLike, opened
from geocore.raster.scene import Layer, Scene
from geocore.raster.write import BLOCK_PX, RasterWriter
from geocore.report.preview import class_keys
from geocore.segmentation.evaluation import evaluating
from geocore.segmentation.model import AnyModel, DenseModel, as_trained, logits_of
from geocore.terminal import quiet
from geocore.tiling.tiles import Chunk, TileGrid
from geocore.transforms.normalize import Normalize

Head = Literal["softmax", "sigmoid", "regression"]
Output = Literal["label", "probability", "margin", "entropy", "value"]
Classes = Sequence[str] | Mapping[int, str]
Normalization = Statistics | nn.Module | float | None
Inputs = Mapping[str, Mapping[str, Tensor]]
Array = npt.NDArray[Any]

_FAR: Final = 4.0
"""Standard deviations that the mean of a band may lie off before it is told, as for floods."""
INVALID: Final = 255
"""Class and percentages of pixels that nothing is said of; NaN is it among values."""
_HEAD: Final = "output"
_KINDS: Final[Mapping[str, Literal["classes", "sigmoid", "values"]]] = {
    "softmax": "classes",
    "sigmoid": "sigmoid",
    "regression": "values",
}
_OUTPUTS: Final = ("label", "probability", "margin", "entropy")
_MOST_COLOURS: Final = 7


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What `predict` made of a scene: arrays, or files where it was given a path."""

    grid: Grid
    """Of the scene."""
    classes: dict[int, str]
    """Class value -> name; empty where none was given."""
    arrays: dict[str, Array]
    """Name of each output -> shape (row, col), or (band, row, col) of several probabilities or values: uint8, and 255
    where invalid, of `label` (class), `probability`, `margin` and `entropy` (%); float32 and NaN of `value`."""
    paths: dict[str, Path]
    """Name of each output -> its file; then `arrays` is empty."""

    def __getitem__(self, name: str) -> Array:
        """An output as an array, read whole where it was written to a file.

        Raises:
            SettingsError: it was not asked for.
            SceneError: its file cannot be read.
        """
        if name in self.arrays:
            return self.arrays[name]
        if name not in self.paths:
            have = ", ".join([*self.arrays, *self.paths])
            raise SettingsError(f"output {name!r}: was not asked for; there is {have}: name it in outputs=")
        with open_raster(self.paths[name], codes=name != "value") as scene:
            values = scene.read().values
        return values[0] if len(values) == 1 else values

    @property
    def labels(self) -> Array:
        """Class of each pixel, shape (row, col), uint8, 255 where invalid; as `self["label"]`."""
        return self["label"]

    def __repr__(self) -> str:
        """Outputs, size and classes in one line."""
        held = ", ".join([*self.arrays, *(f"{name}: {path}" for name, path in self.paths.items())])
        classes = f"; classes: {', '.join(self.classes.values())}" if self.classes else ""
        return f"Prediction({held}; {self.grid.height} x {self.grid.width} pixels{classes})"


def predict(
    scene: SceneLike,
    model: AnyModel,
    out: Path | str | None = None,
    *,
    classes: Classes | None = None,
    head: Head = "softmax",
    tile: int = 512,
    overlap: int = 128,
    normalize: Normalization = None,
    flips: bool = False,
    outputs: Sequence[Output] | Output | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    progress: bool = True,
) -> Prediction:
    """Map a scene of any size; with `out` in memory that does not grow with its height.

    A pixel is valid where all bands are. What is invalid goes into the model as 0 and comes out as invalid.

    Args:
        scene: whatever `geocore.open` takes, or a scene of one layer that is open.
        model: of `fit`, or called with shape (batch, band, row, col), float32, normalized, to return shape (batch,
            class, row, col), any float: logits, or values of a regression. A module is set to evaluation mode and moved
            to the device for the call, and put back. A function may be called from several threads at once.
        out: GeoTIFF for the label, or the first output where no label is asked for; others lie beside it, as
            `<stem>_<output>.tif`. None: arrays.
        classes: names of the classes in the order of the model's channels, or channel -> name; None: those of a model
            of `fit`, of others none.
        head: softmax: exactly one class is true. sigmoid: each channel is true or not, and a single channel makes two
            classes, 0 and 1. regression: channels are quantities.
        tile: edge of a tile, pixels.
        overlap: pixels that neighbouring tiles share, over which they are blended.
        normalize: statistics of the training data: less the mean, over the standard deviation; a number: over it; a
            module: called with shape (batch, band, row, col), float32, stored values. None: stored values.
        flips: average over the four mirror images, at four times the cost.
        outputs: `label`; `probability`, of class 1 where there are two, of the chosen class where there are more, of
            each channel where several are independent; `margin`, to the runner-up; `entropy`, of its greatest value;
            these three in %. `value` of a regression. None: the label, or what there is instead of one.
        batch_size: tiles per forward; None: one on a CPU, else as many as `settings.TILES_PER_FORWARD`.
        device: `auto`: that of the model if it lies on an accelerator, else the best there is; `cpu`, `cuda`, `mps`.
        precision: of the forward.
        progress: show a bar where it takes long.

    Raises:
        SettingsError: options contradict each other or the model's output.
        SceneError: the scene cannot be read, or holds other bands or numbers of another unit than those that a model of
            `fit` was trained on.
        DataError: the model's output has another shape, or is not finite at valid pixels.
        DeviceError: the device is not there, or a tile does not fit its memory.
        StorageError: the disk is full or closed.
    """
    wanted = _wanted(outputs, head)
    target = None if out is None else _target(Path(out))
    with opened(scene) as image, quiet(not progress):
        layer = _only_layer(image)
        _check_apart(image, target)
        # Not closed: it is the caller's, or `opened` closes it.
        image = Scene(
            image.name, image.grid, {layer.name: as_trained(model, image.readers[layer.name], image.grid, image.name)}
        )
        context = _context(model, device, precision)
        tiling = TileGrid(tile, overlap)
        if isinstance(model, DenseModel):
            look_over(image, layer.name, model.trained_on, far=_FAR, size_px=tile)
        if isinstance(model, DenseModel) and normalize is not None:
            raise SettingsError("normalize: the model of fit() normalizes by itself; leave it out")
        network = _Network(model, layer, head, _normalizer(normalize, layer))
        with (
            _placed([part for part in (model, network.normalize) if isinstance(part, nn.Module)], context),
            _Products(image.grid, tiling, head, wanted, _names(classes, model), target) as products,
        ):
            predict_tiles(
                flip_average(network) if flips else network,
                image,
                Chunk("all", Window(0, 0, *image.grid.shape)),
                tiling,
                products,
                read=Scene.read_layers,
                context=context,
                batch_size=batch_size,
            )
        return products.result()


class _Network:
    """The model as `predict_tiles` calls it: layers in, blended quantities and the valid mask out."""

    def __init__(
        self, model: Callable[[Tensor], Any], layer: Layer, head: Head, normalize: Callable[..., Any] | float | None
    ) -> None:
        self.normalize = normalize
        self._model, self._layer, self._kind = model, layer.name, _KINDS[head]

    def __call__(self, inputs: Inputs) -> dict[str, Tensor]:
        values, valid = inputs[self._layer]["values"], inputs[self._layer]["valid"]
        if isinstance(self.normalize, Normalize):
            values = self.normalize(inputs)[self._layer]
        elif isinstance(self.normalize, float):
            values = values.float() / self.normalize
        elif self.normalize is not None:
            values = self.normalize(torch.where(valid, values.float(), 0.0))
        raw: Any = logits_of(self._model, values, valid)
        if not isinstance(raw, Tensor):
            raise DataError(
                f"the model returns a {type(raw).__name__}: must be a tensor of shape (batch, class, row, col); wrap "
                "it in a function that takes the logits out"
            )
        rows, cols = values.shape[-2:]
        if raw.ndim != 4 or len(raw) != len(values) or raw.shape[-2:] != (rows, cols):
            raise DataError(
                f"the model returns {tuple(raw.shape)} for {tuple(values.shape)}: must be (batch, class, row, "
                f"col) = ({len(values)}, classes, {rows}, {cols}); resize its output, or take tiles that it keeps"
            )
        seen = valid.flatten(1, -3).all(1, keepdim=True)
        return {_HEAD: OutputHead(raw.shape[1], self._kind).activate(raw), VALID: seen}


class _Products:
    """The reducer: blends tiles, and puts finished rows into arrays or files once the first tile tells the classes."""

    def __init__(
        self,
        grid: Grid,
        tiling: TileGrid,
        head: Head,
        outputs: Sequence[Output] | None,
        classes: Classes | None,
        target: Path | None,
    ) -> None:
        self._grid, self._tiling, self._head = grid, tiling, head
        self._wanted, self._given, self._target = outputs, classes, target
        self._blender: OverlapBlender | None = None
        self._outputs: tuple[Output, ...] = ()
        self._classes: dict[int, str] = {}
        self._arrays: dict[str, Array] = {}
        self._files: dict[str, _RowFile] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Products:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, row_index: int, col_index: int, window: Window, output: Mapping[str, Tensor]) -> None:
        if self._blender is None:
            self._blender = self._begin(len(output[_HEAD]))
        self._blender.add(row_index, col_index, window, output)

    def finish(self) -> None:
        assert self._blender is not None  # a scene has at least one tile
        self._blender.finish()

    def result(self) -> Prediction:
        arrays = {name: array[0] if len(array) == 1 else array for name, array in self._arrays.items()}
        paths = {name: file.path for name, file in self._files.items()}
        return Prediction(self._grid, self._classes, arrays, paths)

    def _begin(self, channels: int) -> OverlapBlender:
        several = self._head == "sigmoid" and channels > 1
        if self._wanted is None:
            self._outputs = ("value",) if self._head == "regression" else ("probability",) if several else ("label",)
        else:
            self._outputs = tuple(self._wanted)
        if several and set(self._outputs) != {"probability"}:
            raise SettingsError(
                f"outputs = {', '.join(self._outputs)}: {channels} independent channels (head sigmoid) have no one "
                "class: ask for probability, or take head softmax"
            )
        labels = 2 if self._head == "sigmoid" and channels == 1 else channels
        if self._head == "softmax" and not 2 <= channels < INVALID:
            raise SettingsError(
                f"the model has {channels} output channel{'s' if channels > 1 else ''}: head softmax needs 2 to "
                f"{INVALID - 1}; take head sigmoid for one probability, or regression for quantities"
            )
        self._classes = _class_names(self._given, labels)
        for output in self._outputs:
            self._open(output, channels if several or self._head == "regression" else 1)
        chunk = Chunk("all", Window(0, 0, *self._grid.shape))
        return OverlapBlender(chunk, self._tiling, self._grid.shape, {_HEAD: channels}, on_rows=self._emit)

    def _open(self, output: Output, bands: int) -> None:
        dtype = "float32" if output == "value" else "uint8"
        if self._target is None:
            self._arrays[output] = np.empty((bands, *self._grid.shape), dtype)
            return
        is_first = output == ("label" if "label" in self._outputs else self._outputs[0])
        stem = self._target.stem
        path = self._target if is_first else self._target.with_name(f"{stem}_{output}{self._target.suffix}")
        keys = class_keys(self._classes)
        is_coloured = output == "label" and 0 < len(keys) <= _MOST_COLOURS
        writer = RasterWriter(
            path,
            grid=self._grid,
            count=bands,
            dtype=dtype,
            nodata=math.nan if output == "value" else INVALID,
            band_names=self._band_names(output, bands),
            colours={value: key.colour for value, key in keys.items() if key.colour} if is_coloured else None,
            class_names=self._classes if output == "label" and self._classes else None,
            # What is not looked for lets the map below be seen.
            transparent=(0,) if len(self._classes) == 2 else (),
            overviews="nearest" if output == "label" else "average",
        )
        self._files[output] = _RowFile(self._stack.enter_context(writer), bands, dtype)

    def _band_names(self, output: Output, bands: int) -> list[str]:
        names = [self._classes.get(band, str(band)) for band in range(bands)]
        if output == "value":
            return names
        if output == "probability" and (bands > 1 or len(self._classes) == 2):
            return [f"probability of {name}, %" for name in (names if bands > 1 else [self._classes[1]])]
        return [{"label": "class"}.get(output, f"{output}, %")]

    def _emit(self, row: int, blended: dict[str, Tensor]) -> None:
        for output in self._outputs:
            values = _described(output, blended[_HEAD], blended[VALID], self._head).cpu().numpy()
            if self._target is None:
                self._arrays[output][:, row : row + values.shape[1]] = values
            else:
                self._files[output].add(row, values)


class _RowFile:
    """A raster that takes rows from top to bottom and writes whole blocks, of which one row is held."""

    def __init__(self, writer: RasterWriter, bands: int, dtype: str) -> None:
        self.path = writer.path
        self._writer = writer
        self._height, width = writer.grid.shape
        self._block = np.empty((bands, min(BLOCK_PX, self._height), width), dtype)

    def add(self, row: int, values: Array) -> None:
        """Take the next rows.

        Args:
            row: the first of them.
            values: shape (band, row, col).
        """
        taken = 0
        while taken < values.shape[1]:
            first = row % BLOCK_PX
            count = min(self._block.shape[1] - first, values.shape[1] - taken)
            self._block[:, first : first + count] = values[:, taken : taken + count]
            row, taken = row + count, taken + count
            if row % BLOCK_PX == 0 or row == self._height:
                held = first + count
                self._writer.write(self._block[:, :held], row - held)


def _described(output: Output, shares: Tensor, valid: Tensor, head: Head) -> Tensor:
    """One output of finished rows.

    Args:
        output: which.
        shares: shape (channel, row, col), float32: probabilities 0-1, or values.
        valid: shape (1, row, col), bool.
        head: what the channels are.

    Returns:
        Shape (band, row, col), uint8 or, of values, float32.
    """
    if output == "value":
        return shares.masked_fill(~valid, math.nan)
    if head == "sigmoid":
        if output == "probability":
            return to_percent(shares, valid)
        shares = torch.cat([1 - shares, shares])
    if output == "label":
        return argmax_labels(shares)[None].masked_fill(~valid, INVALID)
    if output == "probability":
        return to_percent((shares[1] if len(shares) == 2 else shares.amax(0))[None], valid)
    return to_percent((margin(shares) if output == "margin" else normalized_entropy(shares))[None], valid)


def _wanted(outputs: Sequence[Output] | Output | None, head: Head) -> tuple[Output, ...] | None:
    if head not in _KINDS:
        raise SettingsError(f"head = {head!r}: must be one of {', '.join(_KINDS)}")
    if outputs is None:
        return None
    names: tuple[Any, ...] = (outputs,) if isinstance(outputs, str) else tuple(dict.fromkeys(outputs))
    allowed = ("value",) if head == "regression" else _OUTPUTS
    for name in names:
        if name not in allowed:
            raise SettingsError(f"outputs = {name!r}: head {head} has {', '.join(allowed)}; choose among these")
    if not names:
        raise SettingsError(f"outputs = (): nothing to make; name some of {', '.join(allowed)}")
    return names


def _names(given: Classes | None, model: object) -> Classes | None:
    """Names of classes as given, or those that a model of `fit` knows."""
    return model.classes if given is None and isinstance(model, DenseModel) else given


def _class_names(given: Classes | None, count: int) -> dict[int, str]:
    if given is None:
        return {}
    if isinstance(given, str):
        raise SettingsError(f"classes = {given!r}: must be several names, such as ['land', 'water']")
    names = dict(given) if isinstance(given, Mapping) else dict(enumerate(given))
    if sorted(names) != list(range(count)):
        said = ", ".join(f"{value} {name}" for value, name in names.items())
        raise SettingsError(
            f"classes: {len(names)} ({said}), but the model's output tells {count} apart: name 0 to {count - 1}"
        )
    return {int(value): str(names[value]) for value in sorted(names)}


def _target(out: Path) -> Path:
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise SettingsError(f"out = {out}: maps are GeoTIFF; give a name that ends in .tif")
    return out


def _only_layer(scene: Scene) -> Layer:
    if len(scene.layers) != 1:
        raise SettingsError(
            f"scene {scene.name} has {len(scene.layers)} layers ({', '.join(scene.layers)}): a model takes one; open "
            "one of them, or use geocore.inference.tiled.predict_tiles"
        )
    return next(iter(scene.layers.values()))


def _check_apart(scene: Scene, target: Path | None) -> None:
    for source in scene.readers.values():
        place = getattr(source, "path", None)
        if target is not None and isinstance(place, Path) and place.resolve() == target.resolve():
            raise SettingsError(f"out = {target}: is the scene that is mapped; write elsewhere")


def _context(model: object, device: str | torch.device, precision: str) -> DeviceContext:
    if device == "auto" and isinstance(model, nn.Module):
        devices = {tensor.device for tensor in chain(model.parameters(), model.buffers())}
        if len(devices) == 1 and next(iter(devices)).type != "cpu":
            device = devices.pop()
    return DeviceContext.on(device, precision=precision)


def _normalizer(given: Normalization, layer: Layer) -> Callable[..., Any] | float | None:
    if isinstance(given, Statistics):
        held = given.layers
        if layer.name not in held and len(held) == 1:
            given = dataclasses.replace(given, layers={layer.name: next(iter(held.values()))})
        return Normalize(given, {layer.name: layer.bands})
    if given is None or callable(given):
        return given
    if isinstance(given, bool) or not isinstance(given, int | float) or not given or not math.isfinite(given):
        raise SettingsError(f"normalize = {given!r}: must be statistics, a module, or a number other than 0")
    return float(given)


@contextmanager
def _placed(modules: Sequence[nn.Module], context: DeviceContext) -> Iterator[None]:
    """Modules in evaluation mode on the device; each as it was at the end."""
    devices = [{tensor.device for tensor in chain(module.parameters(), module.buffers())} for module in modules]
    with ExitStack() as stack:
        for module, before in zip(modules, devices, strict=True):
            stack.enter_context(evaluating(module))
            if len(before) == 1 and before != {context.device}:
                stack.callback(module.to, before.pop())
            module.to(context.device)
        yield
