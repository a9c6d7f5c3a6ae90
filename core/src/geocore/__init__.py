"""From satellite scenes and field photographs to maps: open, split, fit, predict, evaluate, polygonize.

    import geocore as geo

    geo.predict("scene.tif", network, "water.tif", classes=["land", "water"])

Names are imported when they are first used, so that `import geocore` costs nothing and torch comes when it is needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from geocore.api import Block as Block
    from geocore.api import find_leaks as find_leaks
    from geocore.api import open as open
    from geocore.api import polygonize as polygonize
    from geocore.api import sample as sample
    from geocore.api import split_blocks as split_blocks
    from geocore.api import write as write
    from geocore.datasets.statistics import Statistics as Statistics
    from geocore.device import DeviceContext as DeviceContext
    from geocore.device import device_context as device_context
    from geocore.errors import UserError as UserError
    from geocore.metrics.confusion import Confusion as Confusion
    from geocore.raster.bands import Band as Band
    from geocore.raster.bands import Bands as Bands
    from geocore.raster.grid import Grid as Grid
    from geocore.raster.grid import Window as Window
    from geocore.raster.masks import MaskRule as MaskRule
    from geocore.raster.scene import Layer as Layer
    from geocore.raster.scene import Patch as Patch
    from geocore.raster.scene import Scene as Scene
    from geocore.segmentation.dataset import SegmentationDataset as SegmentationDataset
    from geocore.segmentation.evaluation import Scores as Scores
    from geocore.segmentation.evaluation import compare as compare
    from geocore.segmentation.evaluation import evaluate as evaluate
    from geocore.segmentation.fitting import Fitted as Fitted
    from geocore.segmentation.fitting import fit as fit
    from geocore.segmentation.prediction import Prediction as Prediction
    from geocore.segmentation.prediction import predict as predict
    from geocore.settings import DeviceSettings as DeviceSettings
    from geocore.tiling.tiles import TileGrid as TileGrid
    from geocore.training.run import Run as Run
    from geocore.transforms.augment import Bias as Bias
    from geocore.transforms.augment import Flip as Flip
    from geocore.transforms.augment import Gain as Gain
    from geocore.transforms.augment import Noise as Noise
    from geocore.transforms.augment import Rot90 as Rot90
    from geocore.transforms.normalize import Normalize as Normalize

_PLACES: Final = {
    "geocore.api": ("Block", "find_leaks", "open", "polygonize", "sample", "split_blocks", "write"),
    "geocore.datasets.statistics": ("Statistics",),
    "geocore.device": ("DeviceContext", "device_context"),
    "geocore.errors": ("UserError",),
    "geocore.metrics.confusion": ("Confusion",),
    "geocore.raster.bands": ("Band", "Bands"),
    "geocore.raster.grid": ("Grid", "Window"),
    "geocore.raster.masks": ("MaskRule",),
    "geocore.raster.scene": ("Layer", "Patch", "Scene"),
    "geocore.segmentation.dataset": ("SegmentationDataset",),
    "geocore.segmentation.prediction": ("Prediction", "predict"),
    "geocore.segmentation.evaluation": ("Scores", "compare", "evaluate"),
    "geocore.segmentation.fitting": ("Fitted", "fit"),
    "geocore.settings": ("DeviceSettings",),
    "geocore.tiling.tiles": ("TileGrid",),
    "geocore.training.run": ("Run",),
    "geocore.transforms.augment": ("Bias", "Flip", "Gain", "Noise", "Rot90"),
    "geocore.transforms.normalize": ("Normalize",),
}
"""Module -> what of it is public here; equal to the imports above, which type checkers and editors see."""
_MODULES: Final = {name: module for module, names in _PLACES.items() for name in names}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'geocore' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
