"""ConvSTAR: a stack of convolutional cells that read the dates in turn, each with one gate.

Turkoglu, D'Aronco, Wegner and Schindler 2021, "Gating Revisited: Deep Multi-layer RNNs That Can Be Trained" (TPAMI),
brought the cell; Turkoglu et al. 2021, "Crop mapping from image time series: deep learning with multi-scale label
hierarchies" (Remote Sensing of Environment), used it for crops. Here the state is a convex mixture of what was and what
comes, without the outer tanh of the first paper, as in the work on active sampling that this task follows.

Shape letters: B batch, T date, C band, D channels of a cell, H and W rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StarCell(nn.Module):
    """One cell: state' = k state + (1 - k) tanh(update(input)), with the gate k = sigmoid(gate(input, state))."""

    def __init__(self, inputs: int, hidden: int) -> None:
        """Build the cell.

        Args:
            inputs: channels of what comes.
            hidden: channels of the state.
        """
        super().__init__()
        self.hidden = hidden
        self.gate = nn.Conv2d(inputs + hidden, hidden, kernel_size=3, padding=1)
        self.update = nn.Conv2d(inputs, hidden, kernel_size=3, padding=1)
        # An open memory at first, sigmoid(1) = 0.73, so that gradients reach the early dates.
        nn.init.ones_(self.gate.bias)  # type: ignore[arg-type]  # there is one

    def forward(self, given: Tensor, state: Tensor) -> Tensor:
        """Take one date in.

        Args:
            given: shape (B, inputs, H, W), float.
            state: shape (B, D, H, W), float, within -1 to 1.

        Returns:
            The new state, of the shape and range of `state`.
        """
        k = torch.sigmoid(self.gate(torch.cat([given, state], dim=1)))
        mixed: Tensor = k * state + (1 - k) * torch.tanh(self.update(given))
        return mixed


class ConvStar(nn.Module):
    """Cells above one another over all dates; the last state of the topmost one becomes logits."""

    def __init__(self, bands: int, classes: int, *, hidden: int, layers: int) -> None:
        """Build the network with random weights.

        Args:
            bands: C, of each date.
            classes: channels of the result.
            hidden: D, of each cell.
            layers: number of cells above one another.
        """
        super().__init__()
        self.bands = bands
        self.cells = nn.ModuleList(StarCell(bands if layer == 0 else hidden, hidden) for layer in range(layers))
        self.last = nn.Conv2d(hidden, classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of any size.

        Args:
            images: shape (B, T * C, H, W), float, all bands of the first date first.

        Returns:
            Shape (B, class, H, W), float.
        """
        dates = torch.unflatten(images, 1, (-1, self.bands)).unbind(1)
        empty = images.new_zeros(images.shape[0], self.last.in_channels, *images.shape[-2:])
        states = [empty for _ in self.cells]
        for given in dates:
            for layer, cell in enumerate(self.cells):
                states[layer] = given = cell(given, states[layer])
        logits: Tensor = self.last(states[-1])
        return logits
