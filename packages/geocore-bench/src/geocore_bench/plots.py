"""The goals as a picture: how far each is reached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geocore_bench.goals import Verdict

_REACHED, _MISSED = "#2a788e", "#d1495b"
_ROW_INCHES = 0.26


def plot(verdicts: Sequence[Verdict], path: Path) -> None:
    """Draw a bar a goal that was measured: what was measured over what was asked, on a logarithmic axis.

    Args:
        verdicts: one a goal; those without a share are left out.
        path: the PNG file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    shares = [(verdict, share) for verdict in verdicts if (share := verdict.share) is not None]
    figure = Figure(figsize=(9, 1.2 + _ROW_INCHES * max(1, len(shares))), layout="constrained")
    axes = figure.subplots()
    labels = [_label(verdict) for verdict, _ in shares]
    colours = [_REACHED if verdict.met else _MISSED for verdict, _ in shares]
    # Bars from the line at 1: to the right what is reached, to the left what is not.
    axes.barh(range(len(shares)), [share - 1 for _, share in shares], left=1, color=colours)
    axes.set_xscale("log")
    axes.margins(y=0.01)
    # Shares span little more than one power of ten, whose names say nothing.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(shares)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("measured / asked (1: the goal is reached)")
    figure.savefig(path, dpi=120)


def _label(verdict: Verdict) -> str:
    against = f" / {verdict.against}" if verdict.against else ""
    return f"{verdict.goal.text}{against}"
