"""What a network is asked for and answers, whichever library holds it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LOSSES = ("objectness", "anchor_box", "classifier", "box", "mask")
"""Names of the parts of the training loss."""

_REFERENCE_PX = 512 * 512
"""Pixels of a tile that gets as many proposals and samples as the Mask R-CNN paper gives a photograph."""


@dataclass(frozen=True, slots=True)
class Found:
    """The detections of one tile, best first, on the host."""

    boxes: npt.NDArray[np.float32]
    """Shape (n, 4): left, top, right, bottom in pixels; pixel (r, c) covers r to r + 1 and c to c + 1."""
    scores: npt.NDArray[np.float32]
    """Shape (n,), 0-1."""
    classes: npt.NDArray[np.int64]
    """Shape (n,), position in the list of classes, from 0; there is no background among them."""
    masks: npt.NDArray[np.float32]
    """Shape (n, side, side), probability 0-1 on a grid that divides the box evenly."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How many places of a tile are looked at.

    The numbers of the paper (1000 proposals, 512 samples) are meant for photographs of a megapixel. They fall with the
    area of a tile here: on a tile of 128 px most of them would be repetitions, and nearly all of the time of a CPU.
    """

    proposals: int
    """Boxes that are classified in mapping; twice as many are offered in training."""
    samples: int
    """Boxes that a step of training learns from."""
    anchors: int
    """Anchors that a step of training learns from. The loss of their boxes is divided by this number, so that more of
    them on a tile with few objects would teach the proposals little."""

    @classmethod
    def of(cls, pixels: int, detections: int) -> Effort:
        """Numbers for a tile.

        Args:
            pixels: area of the tile.
            detections: detections that are kept, at most as many as there are proposals.
        """
        share = pixels / _REFERENCE_PX
        return cls(
            proposals=max(min(round(1000 * share), 1000), 100, detections),
            samples=max(min(round(512 * share), 512), 64),
            anchors=max(min(round(256 * share), 256), 64),
        )
