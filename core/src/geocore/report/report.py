"""The report of a run: `report.html`, one file with its curves, scores, pictures, settings and provenance.

Everything is inside: curves as SVG, pictures as data URIs. Nothing is loaded and no script runs. What is said is
gathered here; the page is the template `report.html.jinja` beside this module, which escapes every text. Curves take
their colours from its style, so that they follow light and dark mode. The same folder and panels give the same bytes
with the same matplotlib.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geocore.errors import DataError, RunError
from geocore.metrics.evaluation import Evaluation, shown_parts, shown_score
from geocore.storage.documents import DocumentError, parse_json, read_json, read_yaml
from geocore.storage.files import atomic_write_text
from geocore.storage.records import read_summary
from geocore.storage.special_files import open_regular

if TYPE_CHECKING:
    from jinja2 import Template

_INK, _RULE = "#00fd00", "#00fd01"
"""Stand-ins for colours of the style; curves have #00fe00 to #00fe07."""
_STROKES = ("solid", "dashed", "dotted")
"""Of the first eight curves, the next eight and so on."""
_DRAWING = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), _RULE),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
}
_Curves = Mapping[str, Sequence[tuple[float, float]]]
"""Name -> (step, value) of each logged value; NaN where the logged one was not finite."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture of the report."""

    title: str
    caption: str
    image: npt.NDArray[np.uint8]
    """Shape (row, col, 3), uint8, sRGB."""


def write_report(folder: Path, *, panels: Sequence[Panel] = ()) -> Path:
    """Write `report.html` from what lies in a run folder; what is missing or unreadable is said there.

    Args:
        folder: the run folder, see `geocore.training.run`; it may lack any of its files.
        panels: pictures to show.

    Returns:
        The path of the report. One that is there is replaced.

    Raises:
        RunError: there is no such folder.
        StorageError: the folder cannot be written.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder: a report describes a run; check the path")
    run, finished = _object(folder / "run.json"), read_summary(folder)
    known = {} if isinstance(run, str) else run
    config, environment = _object(folder / "config.yaml"), _object(folder / "environment.json")
    best = None if finished is None else finished.get("best_step")
    best_step = best if isinstance(best, int) else None
    page = _template().render(
        title=f"{_plain(known.get('task', 'unknown task'))}: {folder.resolve().name}",
        summary=_summary(run, finished),
        charts=[
            _chart(title, curves, f"chart{number}", best_step)
            for number, (title, curves) in enumerate(_curves(folder / "metrics.jsonl").items())
        ],
        best_step=best_step,
        evaluations=_evaluations(folder, known.get("data_hash")),
        pictures=[_picture(panel) for panel in panels],
        settings=config if isinstance(config, str) else dict(_flat(config)),
        provenance=environment if isinstance(environment, str) else _provenance(environment),
    )
    # A lone surrogate, which JSON may hold, is no text.
    atomic_write_text(folder / "report.html", page.encode(errors="replace").decode())
    return folder / "report.html"


def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = _plain
    return environment.get_template("report.html.jinja")


def _object(path: Path) -> dict[str, Any] | str:
    """Content of a JSON or YAML file, or a sentence that says why there is none."""
    try:
        content = read_yaml(path) if path.suffix == ".yaml" else read_json(path, finite=False)
    except FileNotFoundError:
        return f"There is no {path.name}."
    except (OSError, DocumentError):
        return f"{path.name} cannot be read."
    return content if isinstance(content, dict) else f"{path.name} holds something else."


def _summary(run: dict[str, Any] | str, finished: dict[str, Any] | None) -> dict[str, Any]:
    """What was trained, on what, and whether it reached its end."""
    rows: dict[str, Any] = {"run": run}
    if not isinstance(run, str):
        rows = {"task": run.get("task", "unknown"), "data hash": run.get("data_hash", "unknown")}
    if finished is None:
        return rows | {"state": "not finished"}
    early = ", stopped early" if finished.get("stopped_early") else ""
    rows["state"] = f"finished after {_plain(finished.get('steps'))} steps{early}"
    if isinstance(best := finished.get("best_score"), int | float):
        name, step = _plain(finished.get("primary")), _plain(finished.get("best_step"))
        rows["best validation"] = f"{name} {best:.4f} at step {step}"
    return rows


def _curves(path: Path) -> dict[str, _Curves]:
    """Losses in one chart, validation scores within 0-1 in the next, others in one each as their units differ."""
    content = b""
    with suppress(OSError), open_regular(path) as file:
        content = file.read()
    values: dict[str, list[tuple[float, float]]] = {}
    for line in content.decode(errors="replace").splitlines():
        try:
            entry = parse_json(line, finite=False)
            step = float(entry.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # a killed process left it unfinished
        for name, value in entry.items():
            if name.startswith(("loss", "validation_")) and (value is None or isinstance(value, int | float)):
                known = math.nan if value is None or not math.isfinite(value) else float(value)
                values.setdefault(name, []).append((step, known))
    scores = {name[len("validation_") :]: values.pop(name) for name in list(values) if name.startswith("validation_")}
    # NaN, a score without data, tells nothing about the range.
    shares = [name for name in scores if all(math.isnan(value) or 0 <= value <= 1 for _, value in scores[name])]
    charts: dict[str, _Curves] = {"Training loss": values, "Validation scores": {name: scores[name] for name in shares}}
    charts |= {f"Validation: {name}": {name: scores[name]} for name in scores if name not in shares}
    return {title: curves for title, curves in charts.items() if curves}


def _chart(title: str, curves: _Curves, key: str, best_step: int | None) -> dict[str, Any]:
    """The curves under their legend, which is text of the page and so wraps on a narrow screen."""
    legend, told = [], []
    for number, (name, points) in enumerate(curves.items()):
        (first, start), (last, end) = points[0], points[-1]
        color, stroke = _look(number)
        legend.append({"name": name, "end": _short(end), "color": color, "stroke": stroke})
        told.append(f"{name} from {_short(start)} at step {first:.0f} to {_short(end)} at step {last:.0f}")
    drawing = _drawing(curves, key, best_step)
    return {"title": title, "key": key, "legend": legend, "told": "; ".join(told), "drawing": drawing}


def _look(number: int) -> tuple[int, str]:
    """Color and stroke of a curve."""
    return number % 8, _STROKES[number // 8 % 3]


def _drawing(curves: _Curves, key: str, best_step: int | None) -> str:
    """Content and end of the SVG, with the colours of the style and identifiers that are its own on the page."""
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    file = io.StringIO()
    written = {"svg.fonttype": "none", "svg.hashsalt": key, "savefig.transparent": True, "font.size": 9}
    with style.context(["default", _DRAWING, written]):
        figure = Figure(figsize=(400 / 72, 220 / 72), layout="constrained")
        axes = figure.add_subplot()
        for number, points in enumerate(curves.values()):
            color, stroke = _look(number)
            marker = "o" if len(points) < 20 else None  # a single point makes no line
            axes.plot(*zip(*points, strict=True), color=f"#00fe{color:02x}", linestyle=stroke, marker=marker)
        if best_step is not None:
            axes.axvline(best_step, color=_INK, linewidth=0.8, linestyle="dashed", zorder=0)
        axes.grid(axis="y", linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        axes.set(xlabel="step", xlim=(0, None))
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue().split("<svg", 1)[1].split(">", 1)[1]
    svg = re.sub(r"#00fe0(\d)", r"var(--c\1)", svg).replace(_INK, "currentColor").replace(_RULE, "var(--rule)")
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{key}-", svg)


def _evaluations(folder: Path, data_hash: Any) -> dict[str, dict[str, Any] | str]:
    """Each split that was scored -> what is said of it, or a sentence that says why that cannot be read."""
    splits: dict[str, dict[str, Any] | str] = {}
    for path in sorted(folder.glob("evaluation-*.json")):
        split = path.stem.removeprefix("evaluation-")
        try:
            found = Evaluation.load(path)
        except DataError:
            said = "cannot be read or is not what was written; write it again with the evaluate command."
            splits[split] = f"{path.name} {said}"
            continue
        known = {name: value for name, value in found.protocol.items() if value is not None}
        facts = {"samples": found.samples, "checkpoint": found.checkpoint, **known}
        if found.data_hash != data_hash:
            facts["data hash"] = f"{found.data_hash}, other than that of the run"
        parts = []
        for key, scores in (("class", found.per_class), ("group", found.per_group)):
            if scores:
                names = _ordered(found, {name for each in scores.values() for name in each})
                head, *rows = shown_parts(key, scores, names)
                parts.append({"caption": f"By {key}", "head": head, "rows": rows})
        splits[split] = {
            "leading": _contenders(found),
            "meanings": found.meanings,
            "parts": parts,
            "facts": {key: fact for key, fact in facts.items() if fact != ""},
        }
    return splits


def _contenders(found: Evaluation) -> dict[str, Any]:
    """One row for each score, the leading one first, one column for each contender."""
    untrained = {} if found.untrained is None else {"untrained": found.untrained}
    others = {**untrained, **found.baselines}
    rows = []
    for name in _ordered(found, set(found.model)):
        low, high = found.intervals.get(name, (None, None))
        interval = "" if low is None or high is None else f"{shown_score(low)} to {shown_score(high)}"
        rows.append(
            [name, shown_score(found.model[name]), interval, *(shown_score(each.get(name)) for each in others.values())]
        )
    head = ["score", "model", "95 % interval", *others]
    return {"caption": f"{found.primary} leads; higher is better.", "head": head, "rows": rows}


def _ordered(found: Evaluation, names: set[str]) -> list[str]:
    return sorted(names, key=lambda name: (name != found.primary, name))


def _picture(panel: Panel) -> dict[str, Any]:
    from matplotlib.image import imsave

    image = panel.image
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image {image.shape} {image.dtype}: must be uint8 of shape (row, col, 3)")
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(image), format="png", metadata={"Software": None})  # type: ignore[dict-item]
    png, (height, width, _) = base64.b64encode(file.getvalue()).decode(), image.shape
    return {"title": panel.title, "caption": panel.caption, "width": width, "height": height, "png": png}


def _provenance(environment: dict[str, Any]) -> dict[str, Any] | str:
    """Each start, and the versions at the last one; of earlier starts those that differ."""
    found = environment.get("starts")
    starts = [dict(start) for start in found if isinstance(start, dict)] if isinstance(found, list) else []
    if not starts:
        return "environment.json names no start."
    recorded = [start.pop("versions", None) for start in starts]
    versions = [dict(_flat(each)) if isinstance(each, dict) else {} for each in recorded]
    rows = [{name: "unknown" if value is None else value for name, value in _flat(start)} for start in starts]
    for row, theirs in zip(rows, versions, strict=True):
        if changed := [(name, theirs[name]) for name in theirs if theirs[name] != versions[-1].get(name)]:
            row["other versions"] = ", ".join(f"{name} {version}" for name, version in changed)
    return {"starts": rows, "versions": versions[-1]}


def _flat(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values as `group.name` -> value."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _short(value: float) -> str:
    return "not finite" if math.isnan(value) else f"{value:.4g}"
