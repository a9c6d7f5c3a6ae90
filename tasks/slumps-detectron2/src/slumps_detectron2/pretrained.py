"""Pretrained Mask R-CNN weights: fetched, fitted to other bands and other classes, and otherwise loaded strictly."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from geocore.errors import WeightsError
from geocore.storage.files import atomic_path, sha256_file
from geocore.training.pretrained import adapt_first_conv, load_foreign, load_strictly

logger = logging.getLogger(__name__)

OFFICIAL_URL = "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
"""torchvision's Mask R-CNN of depth 50, trained on COCO; the name ends with the start of its SHA-256."""

_OURS = "detector.net."
"""Prefix of the library's network in our own checkpoints."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Where the layers are that depend on the data, by the names of one library."""

    first_filters: str
    """Weight of the first convolution."""
    last_layers: re.Pattern[str]
    """Layers whose size follows from the number of classes."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What a file holds."""

    state: dict[str, Tensor]
    """Names of the library's network -> tensors."""
    ours: bool
    """Whether they are from a checkpoint of this task, and so made for standardised bands."""


def read_pretrained(path: Path) -> Weights:
    """Read weights of a backend's library, or `model.safetensors` of a checkpoint of this task.

    Raises:
        WeightsError: the file is missing, damaged, or holds a class that is not read.
    """
    state = load_foreign(path)
    network = {name.removeprefix(_OURS): value for name, value in state.items() if name.startswith(_OURS)}
    return Weights(network or state, ours=bool(network))


def load_pretrained(network: nn.Module, state: dict[str, Tensor], path: Path, anatomy: Anatomy) -> None:
    """Load weights made for other bands or classes.

    Filters of the first convolution are averaged over the bands of the file and scaled, see
    `geocore.training.pretrained.adapt_first_conv`. Where the number of classes differs, the last layers of boxes and
    masks stay as they are, random, and the log says so. All else has to fit.

    Args:
        network: takes the weights.
        state: names -> tensors, by the names of the network.
        path: where they come from, for messages.
        anatomy: where the layers are that depend on the data.

    Raises:
        WeightsError: the weights do not fit.
    """
    own = network.state_dict()
    state = dict(state)
    if _has_batch_statistics(state) and not _has_batch_statistics(own):
        raise WeightsError(
            f"weights {path} hold batch statistics, and a network with model.norm = group has no place for them: "
            "set model.norm to frozen-batch or batch"
        )
    _fit_counters(state, own)
    if (filters := state.get(anatomy.first_filters)) is not None and filters.ndim == 4:
        state[anatomy.first_filters] = _fitted_filters(filters, own[anatomy.first_filters].shape[1])
    last = [name for name in own if anatomy.last_layers.match(name) and name in state]
    if any(state[name].shape != own[name].shape for name in last):
        logger.info("%s was trained on other classes: the last layers of boxes and masks start anew", path.name)
        state.update({name: own[name] for name in last})
    load_strictly(network, state, path)


def official_weights(folder: Path | None = None) -> Path:
    """The Mask R-CNN of torchvision trained on COCO, downloaded once into torch's cache, checked at every use.

    Raises:
        WeightsError: offline, or the file is not the one that was published.
    """
    folder = folder or Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / OFFICIAL_URL.rsplit("/", 1)[-1]
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        logger.info("downloading %s", OFFICIAL_URL)
        try:
            with atomic_path(path) as temporary:
                torch.hub.download_url_to_file(OFFICIAL_URL, str(temporary), progress=False)
        except OSError as error:
            raise WeightsError(
                f"{OFFICIAL_URL} cannot be downloaded ({error}): fetch it on a machine with internet access "
                f"and pass its path as --model.weights"
            ) from None
    if not is_official(path):
        raise WeightsError(f"{path} is not the published file or has changed: delete it and run again")
    return path


def is_official(path: Path) -> bool:
    """Whether a file has the content of the published one."""
    return path.is_file() and sha256_file(path).startswith(OFFICIAL_URL.rsplit("-", 1)[-1].removesuffix(".pth"))


def _fitted_filters(filters: Tensor, bands: int) -> Tensor:
    """Filters of shape (out, band, row, col) for another number of bands."""
    conv = nn.Conv2d(filters.shape[1], filters.shape[0], kernel_size=(filters.shape[2], filters.shape[3]), bias=False)
    with torch.no_grad():
        conv.weight.copy_(filters)
    return adapt_first_conv(conv, bands).weight.detach()


def _has_batch_statistics(state: dict[str, Tensor]) -> bool:
    return any(name.endswith("running_mean") for name in state)


def _fit_counters(state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Batch normalization counts its batches, the frozen kind does not; the count changes no output."""
    suffix = ".num_batches_tracked"
    for name in [name for name in state if name.endswith(suffix) and name not in own]:
        del state[name]
    state.update({name: count for name, count in own.items() if name.endswith(suffix) and name not in state})
