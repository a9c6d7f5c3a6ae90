"""Make a run folder of a checkpoint that NASA and IBM published, so that it evaluates and maps like any other run.

    uv run floods-import --weights sen1floods11_Prithvi_100M.pth --published sen1floods11 --run RUN
    uv run floods-evaluate --run RUN --data DATASET
    uv run floods-predict --run RUN --input SCENES --output MAPS

Such a file holds weights alone. Bands, statistics, classes and windows are those of the configuration that was
published beside it (hls-foundation-os, commits of 2023).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from floods_prithvi.config import SIX_BANDS, TASK, ImportSettings
from geocore.cli.main import command
from geocore.terminal import shell_word

if TYPE_CHECKING:
    from floods_prithvi.config import TrainSettings
    from floods_prithvi.model import FloodNet
    from floods_prithvi.pretrained import LoadTable


@dataclass(frozen=True, slots=True)
class Published:
    """What a published configuration says."""

    mean: tuple[float, ...]
    """Of the six bands, reflectance."""
    std: tuple[float, ...]
    classes: tuple[str, ...]
    frames: int
    scale: float
    """Reflectance of one stored unit of its chips."""
    nodata: float | None
    settings: Mapping[str, Any]
    """As a configuration file of floods-train."""


_LAST_LAYER: Final = "decode_head.conv_seg.bias"
_UNLABELLED: Final = "not labelled"
_WINDOWS: Final = {"size": 224, "overlap": 112}
PUBLISHED: Final = {
    "sen1floods11": Published(
        mean=(0.14245495, 0.13921481, 0.12434631, 0.31420089, 0.20743526, 0.12046503),
        std=(0.04036231, 0.04186983, 0.05267646, 0.0822221, 0.06834774, 0.05294205),
        classes=("land", "water"),
        frames=1,
        scale=1e-4,
        nodata=0.0,
        settings={
            "model": {"variant": "v1-100m", "auxiliary": 1.0},
            "loss": {"class_weights": [0.3, 0.7]},
            "tiling": _WINDOWS,
        },
    ),
    "burn-scars": Published(
        mean=(0.0333497067, 0.0570118552, 0.0588974813, 0.2323245113, 0.1972854854, 0.1194491423),
        std=(0.0226913556, 0.0268075602, 0.0400411, 0.0779173242, 0.0870873884, 0.0724197948),
        classes=("unburnt", "burn scar"),
        frames=1,
        scale=1.0,
        nodata=-9999.0,
        settings={
            "model": {"variant": "v1-100m", "auxiliary": 1.0},
            "loss": {"kind": "dice"},
            "tiling": _WINDOWS,
        },
    ),
    "multi-temporal-crop": Published(
        mean=(0.0494905781, 0.0815239594, 0.0924335066, 0.2968881459, 0.2634621962, 0.1739579917),
        std=(0.0284925432, 0.035784876, 0.0575566823, 0.0896601013, 0.0951900334, 0.0921407808),
        classes=(
            "natural vegetation",
            "forest",
            "corn",
            "soybeans",
            "wetlands",
            "developed or barren",
            "open water",
            "winter wheat",
            "alfalfa",
            "fallow or idle cropland",
            "cotton",
            "sorghum",
            "other",
        ),
        frames=3,
        scale=1e-4,
        nodata=None,
        settings={
            "model": {"variant": "crop-6", "auxiliary": 1.0},
            "tiling": _WINDOWS,
        },
    ),
}
"""Means and standard deviations as published; those of crops were stated for stored numbers, 10,000 times as large."""


def main() -> NoReturn:
    """Entry point of `floods-import`."""
    command(import_checkpoint, ImportSettings, prog="floods-import")


def import_checkpoint(settings: ImportSettings) -> None:
    """Read the weights, say what became of each, and write the run folder.

    Raises:
        RunError: the folder holds another run.
        WeightsError: the file cannot be read safely, or is not of the model that it is said to be.
    """
    from floods_prithvi.config import TrainSettings
    from geocore.errors import WeightsError
    from geocore.storage.files import sha256_file
    from geocore.training.checkpoint import CheckpointState, save_checkpoint
    from geocore.training.run import Run

    published = PUBLISHED[settings.published]
    trained = TrainSettings.model_validate(dict(published.settings))
    network, table = load_published(settings.weights, published, trained)
    try:
        digest = sha256_file(settings.weights)
    except OSError as error:  # it went, or became another one, while it was read
        raise WeightsError(f"weights {settings.weights}: {error.strerror}: must be a readable file") from error
    with Run.open(
        settings.run,
        settings=trained,
        data_hash=f"published:{digest}",
        task=TASK,
        tensorboard=False,
    ) as run:
        contents = CheckpointState(
            step=0,
            model=network.state_dict(),
            ema=None,
            optimizer={},
            source={},
            random=[],
            progress={"scores": {}},
            card={**run.provenance, **network.card(), "published": settings.published},
        )
        save_checkpoint(run.checkpoints, contents, best=True, keep=1)
        run.mark_finished({"primary": None, "published": settings.published})
    print(table.text())
    folder = shell_word(settings.run)
    print(f"evaluate it: floods-evaluate --run {folder} --data DATASET")
    print(f"map with it: floods-predict --run {folder} --input SCENES --output MAPS")


def load_published(path: Path, published: Published, trained: TrainSettings) -> tuple[FloodNet, LoadTable]:
    """The network of a published file, and what became of its weights.

    The file for Sen1Floods11 has a third class, to which pixels without a label were mapped and which was ignored in
    training. It is left out, so that the probabilities are those of land and water alone.

    Raises:
        WeightsError: the file cannot be read safely, or is not of that model.
    """
    from floods_prithvi.pretrained import LoadRow, import_published
    from geocore.training.pretrained import load_foreign

    classes = load_foreign(path).get(_LAST_LAYER)
    names = published.classes
    extra = len(names) == 2 and classes is not None and classes.shape == (len(names) + 1,)
    held = dataclasses.replace(published, classes=(*names, _UNLABELLED)) if extra else published
    network = network_of(held, trained)
    table = import_published(path, network)
    if not extra:
        return network, table
    state = network.state_dict()
    own = network_of(published, trained)
    own.load_state_dict({name: value[: len(names)] if ".conv_seg." in name else value for name, value in state.items()})
    return own, dataclasses.replace(
        table, rows=(*table.rows, LoadRow(_LAST_LAYER, "left out", f"the class {_UNLABELLED}, ignored in training"))
    )


def network_of(published: Published, trained: TrainSettings) -> FloodNet:
    """The network of a published configuration, with random weights."""
    import math

    from floods_prithvi.chip_reader import IMAGE, image_layer
    from floods_prithvi.model import FloodNet, Stored
    from geocore.transforms.normalize import BandNormalization, Normalize, normalization_to_plain

    layer = image_layer([str(frame) for frame in range(1, published.frames + 1)] if published.frames > 1 else [])
    bands = tuple(SIX_BANDS)
    normalization = BandNormalization(
        bands, (), published.mean, published.std, (-math.inf,) * len(bands), (math.inf,) * len(bands)
    )
    card = {"mode": "dataset", "layers": {IMAGE: normalization_to_plain(normalization)}}
    return FloodNet(
        Normalize.from_card(card, {IMAGE: layer.bands}),
        layer,
        dict(enumerate(published.classes)),
        trained.model,
        Stored(published.scale, 0.0, published.nodata),
    )
