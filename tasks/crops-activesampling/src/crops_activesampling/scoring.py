"""Scores of samples, by which those that are worth training on are chosen. Higher is trained on.

Every score is a mean over the labelled pixels of a sample: what has no label is not learnt from, and a sum would rank
samples by how much of them is labelled. A sample without a labelled pixel scores NaN.

Loss and correct-class margin prefer what the network gets wrong, which also finds wrong labels. Margin and entropy look
at the network's doubt and not at the label. The reducible hold-out loss (Mindermann et al. 2022, "Prioritized training
on points that are learnable, worth learning, and not yet learnt", ICML) takes away the loss of a model that was trained
on other data: what that one gets wrong as well is noise, or cannot be learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from crops_activesampling.config import Score, SelectionSettings
from crops_activesampling.loss import CROPS, labelled_means, sample_losses
from geocore.device import DeviceContext, to_device

if TYPE_CHECKING:
    from crops_activesampling.model import CropNet

FROM_LOGITS: Final[tuple[Score, ...]] = ("loss", "correct-class-margin", "margin", "entropy", "rho-loss")
"""Scores that cost a forward pass."""
FROM_HOLDOUT: Final[tuple[Score, ...]] = ("irreducible", "rho-loss")
"""Scores that look up the loss of the hold-out model."""


def needs_forward(scores: Mapping[Score, float]) -> bool:
    """Whether a weighted sum of scores costs a forward pass."""
    return any(name in FROM_LOGITS for name in scores)


def needs_holdout(scores: Mapping[Score, float]) -> bool:
    """Whether a weighted sum of scores looks up hold-out losses."""
    return any(name in FROM_HOLDOUT for name in scores)


def sample_scores(
    scores: Mapping[Score, float],
    target: Tensor,
    *,
    logits: Tensor | None = None,
    holdout: Tensor | None = None,
    uniform: Tensor | None = None,
) -> Tensor:
    """Weighted sum of the scores of each sample.

    Args:
        scores: score -> weight.
        target: shape (batch, row, col), any integer dtype, 0 where unlabelled, else 1 to n.
        logits: shape (batch, n, row, col), floating point, for those of `FROM_LOGITS`.
        holdout: shape (batch,), float, nats: loss of each sample under the hold-out model, for those of
            `FROM_HOLDOUT`; NaN where unknown.
        uniform: shape (batch,), float: the number drawn for each sample, for `random`.

    Returns:
        Shape (batch,), float32; NaN where a sample has no labelled pixel or a score is not finite.
    """
    total = torch.zeros(target.shape[0], dtype=torch.float32, device=target.device)
    for name, weight in scores.items():
        total = total + weight * _score(name, target, logits, holdout, uniform)
    usable = (target != 0).flatten(1).any(1) & total.isfinite()
    return torch.where(usable, total, torch.nan)


def correct_class_margins(logits: Tensor, target: Tensor) -> Tensor:
    """How far the best wrong class is above the right one: max log p(wrong) - log p(right).

    Args:
        logits: shape (batch, n, row, col), floating point, n at least 2.
        target: shape (batch, row, col), any integer dtype, 0 where unlabelled, else 1 to n.

    Returns:
        Shape (batch,), float32, nats; below 0 where pixels are right. NaN where a sample has no labelled pixel.
    """
    # The normalization of the softmax cancels in the difference.
    values = logits.float()
    labels = (target.long() - 1).clamp_min(0)[:, None]
    right = values.gather(1, labels)
    wrong = values.scatter(1, labels, -torch.inf).amax(1)
    return labelled_means(wrong - right[:, 0], target)


def margins(logits: Tensor, target: Tensor) -> Tensor:
    """Minus the gap between the probabilities of the two likeliest classes.

    Args:
        logits: shape (batch, n, row, col), floating point, n at least 2.
        target: shape (batch, row, col), 0 where unlabelled; only tells where to look.

    Returns:
        Shape (batch,), float32, -1 (certain) to 0; NaN where a sample has no labelled pixel.
    """
    first, second = logits.float().softmax(1).topk(2, dim=1).values.unbind(1)
    return labelled_means(second - first, target)


def entropies(logits: Tensor, target: Tensor) -> Tensor:
    """Entropy of the class probabilities.

    Args:
        logits: shape (batch, n, row, col), floating point.
        target: shape (batch, row, col), 0 where unlabelled; only tells where to look.

    Returns:
        Shape (batch,), float32, nats, 0 to log n; NaN where a sample has no labelled pixel.
    """
    return labelled_means(torch.special.entr(logits.float().softmax(1)).sum(1), target)


def best(scores: Tensor, number: int) -> Tensor:
    """Positions of the highest scores, in their original order.

    NaN never wins. Where fewer than `number` scores are numbers, the best of these are taken again, the very best
    first, until there are enough: a batch keeps its size, and no sample without a score comes into it.

    Args:
        scores: shape (samples,), float; NaN or infinite where a sample must not be taken. Of equal ones the first wins.
        number: how many.

    Returns:
        Shape (number,), int64, ascending; empty when no score is a number.
    """
    finite = scores.isfinite()
    order = scores.masked_fill(~finite, -torch.inf).argsort(descending=True, stable=True)[: int(finite.sum())]
    if len(order) == 0:
        return order
    repeated = order.repeat(-(-number // len(order)))[:number]
    return repeated.sort().values


def perturbed(scores: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Scores whose highest k are a draw without replacement by exp(score / temperature): the Gumbel top-k trick.

    Kool, van Hoof and Welling 2019, "Stochastic beams and where to find them" (ICML).

    Args:
        scores: shape (samples,), float; those that are not finite become NaN.
        uniform: shape (samples,), float, [0, 1), the number drawn for each sample.
        temperature: in standard deviations of the finite scores. Near 0 the highest win; scores that are all equal are
            drawn uniformly.

    Returns:
        Shape (samples,), float64.
    """
    finite = scores.isfinite()
    known = scores[finite].double()
    spread = float(known.std(correction=0)) if len(known) else 0.0
    scaled = (scores.double() - known.mean()) / (temperature * spread) if spread > 0 else torch.zeros_like(uniform)
    # Half of the 24-bit step keeps both logarithms finite.
    gumbel = -torch.log(-torch.log(uniform.double() + 2.0**-25))
    return torch.where(finite, scaled.double() + gumbel, torch.nan)


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores micro-batches with the network as it is, as `selection.Chooser.score` wants it.

    Windows are scored as they are read, before they are mirrored and turned for training: hold-out losses are those of
    windows as they are read, too.
    """

    network: CropNet
    settings: SelectionSettings
    context: DeviceContext
    holdout: Tensor | None = None
    """Loss of each window of the split under the hold-out model, shape (windows,), float32, nats."""

    def __call__(self, batch: dict[str, Any], uniform: Tensor) -> Tensor:
        """Score a micro-batch. The network comes out as it went in, running means of batch statistics included.

        Args:
            batch: as `Windows` reads it, on the CPU.
            uniform: shape (batch,), float32, numbers for the score `random`.

        Returns:
            Shape (batch,), float32, on the context's device.
        """
        scores = self.settings.scores
        target = to_device(batch["targets"][CROPS], self.context)
        logits = self._logits(batch["inputs"]) if needs_forward(scores) else None
        losses = None if self.holdout is None else self.holdout[batch["index"]].to(self.context.device)
        return sample_scores(scores, target, logits=logits, holdout=losses, uniform=to_device(uniform, self.context))

    def _logits(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        modes = [(module, module.training) for module in self.network.modules()]
        # Only in training mode do batch statistics move, and rejected samples must not move them.
        buffers = (
            [(buffer, buffer.clone()) for buffer in self.network.buffers()] if self.settings.mode == "train" else []
        )
        self.network.train(self.settings.mode == "train")
        with torch.no_grad(), self.context.autocast():
            logits: Tensor = self.network(self.network.images(to_device(inputs, self.context)))
        for buffer, before in buffers:
            buffer.copy_(before)
        for module, mode in modes:
            module.training = mode
        return logits


def _score(
    name: Score, target: Tensor, logits: Tensor | None, holdout: Tensor | None, uniform: Tensor | None
) -> Tensor:
    if name == "random":
        assert uniform is not None
        return uniform.float()
    if name == "irreducible":
        assert holdout is not None
        return -holdout.float()
    assert logits is not None
    if name == "rho-loss":
        assert holdout is not None
        return sample_losses(logits, target) - holdout.float()
    return {
        "loss": sample_losses,
        "correct-class-margin": correct_class_margins,
        "margin": margins,
        "entropy": entropies,
    }[name](logits, target)
