"""The report of a run: `report.html`, one file with its curves, scores, pictures, settings and provenance.

Everything is inside: curves as SVG, pictures as data URIs; the frame and its style are the file `report.html` beside
this module. Nothing is loaded and no script runs. Curves take their colours from the style, so that they follow light
and dark mode. The same folder and panels give the same bytes with the same matplotlib.
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
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

from geocore.errors import DataError, RunError
from geocore.metrics.evaluation import Evaluation, shown_parts, shown_score
from geocore.storage.documents import DocumentError, parse_json, read_json, read_yaml
from geocore.storage.files import atomic_write_text
from geocore.storage.records import read_summary
from geocore.storage.special_files import open_regular

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
    sections = {
        "Training": _training(folder / "metrics.jsonl", finished),
        **_evaluations(folder, known.get("data_hash")),
        "Pictures": '<div class="grid">\n' + "".join(map(_picture, panels)) + "</div>\n" if panels else "",
        "Settings": _note(config) if isinstance(config, str) else _list(dict(_flat(config)), "columns"),
        "Provenance": _note(environment) if isinstance(environment, str) else _provenance(environment),
    }
    body = "".join(f"<section>\n<h2>{escape(name)}</h2>\n{text}</section>\n" for name, text in sections.items() if text)
    title = escape(f"{_plain(known.get('task', 'unknown task'))}: {folder.resolve().name}")
    frame = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    page = frame.substitute(title=title, body=_summary(run, finished) + body)
    # A lone surrogate, which JSON may hold, is no text.
    atomic_write_text(folder / "report.html", page.encode(errors="replace").decode())
    return folder / "report.html"


def _object(path: Path) -> dict[str, Any] | str:
    """Content of a JSON or YAML file, or a sentence that says why there is none."""
    try:
        content = read_yaml(path) if path.suffix == ".yaml" else read_json(path, finite=False)
    except FileNotFoundError:
        return f"There is no {path.name}."
    except (OSError, DocumentError):
        return f"{path.name} cannot be read."
    return content if isinstance(content, dict) else f"{path.name} holds something else."


def _summary(run: dict[str, Any] | str, finished: dict[str, Any] | None) -> str:
    """What was trained, on what, and whether it reached its end."""
    rows: dict[str, Any] = {"run": run}
    if not isinstance(run, str):
        rows = {"task": run.get("task", "unknown"), "data hash": run.get("data_hash", "unknown")}
    if finished is None:
        return _list(rows | {"state": "not finished"})
    early = ", stopped early" if finished.get("stopped_early") else ""
    rows["state"] = f"finished after {_plain(finished.get('steps'))} steps{early}"
    if isinstance(best := finished.get("best_score"), int | float):
        name, step = _plain(finished.get("primary")), _plain(finished.get("best_step"))
        rows["best validation"] = f"{name} {best:.4f} at step {step}"
    return _list(rows)


def _training(path: Path, finished: dict[str, Any] | None) -> str:
    """Curves of the losses and of the validation scores."""
    charts: dict[str, _Curves] = {}
    with suppress(OSError), open_regular(path) as file:
        charts = _charts(file.read().decode(errors="replace").splitlines())
    if not charts:
        return _note("No losses and no validation scores: metrics.jsonl is missing, empty or cannot be read.")
    best = None if finished is None else finished.get("best_step")
    marked = best if isinstance(best, int) else None
    figures = "".join(_figure(title, charts[title], f"chart{at}", marked) for at, title in enumerate(charts))
    note = _note(f"The dashed vertical line marks step {marked}, the best checkpoint.") if marked is not None else ""
    return f'<div class="grid">\n{figures}</div>\n{note}'


def _charts(lines: Sequence[str]) -> dict[str, _Curves]:
    """Losses in one chart, validation scores within 0-1 in the next, others in one each as their units differ."""
    values: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
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


def _figure(title: str, curves: _Curves, key: str, best_step: int | None) -> str:
    """The curves under their legend, which is text of the page and so wraps on a narrow screen."""
    legend, told = "", []
    for number, (name, points) in enumerate(curves.items()):
        colour, stroke = number % 8, _STROKES[number // 8 % 3]
        (first, start), (last, end) = points[0], points[-1]
        legend += f'<span class="key" style="--colour: var(--c{colour}); --stroke: {stroke}">'
        legend += f"{escape(name)} {_short(end)}</span> "
        told.append(f"{name} from {_short(start)} at step {first:.0f} to {_short(end)} at step {last:.0f}")
    head = f'<svg role="img" aria-labelledby="{key}-title {key}-text" viewBox="0 0 400 220">'
    head += f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-text">{escape("; ".join(told))}</desc>'
    caption = f"<figcaption><b>{escape(title)}</b>{legend}</figcaption>"
    return f"<figure>{caption}\n{head}{_drawing(curves, key, best_step)}</figure>\n"


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
            colour, stroke = number % 8, _STROKES[number // 8 % 3]
            marker = "o" if len(points) < 20 else None  # a single point makes no line
            axes.plot(*zip(*points, strict=True), color=f"#00fe{colour:02x}", linestyle=stroke, marker=marker)
        if best_step is not None:
            axes.axvline(best_step, color=_INK, linewidth=0.8, linestyle="dashed", zorder=0)
        axes.grid(axis="y", linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        axes.set(xlabel="step", xlim=(0, None))
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue().split("<svg", 1)[1].split(">", 1)[1]
    svg = re.sub(r"#00fe0(\d)", r"var(--c\1)", svg).replace(_INK, "currentColor").replace(_RULE, "var(--rule)")
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{key}-", svg)


def _evaluations(folder: Path, data_hash: Any) -> dict[str, str]:
    """Heading -> content for each split that was scored."""
    sections = {}
    for path in sorted(folder.glob("evaluation-*.json")):
        heading = f"Scores on {path.stem.removeprefix('evaluation-')}"
        try:
            found = Evaluation.load(path)
        except DataError:
            sections[heading] = _note(
                f"{path.name} cannot be read or is not what was written; write it again with the evaluate command."
            )
            continue
        said = {name: value for name, value in found.protocol.items() if value is not None}
        facts = {"samples": found.samples, "checkpoint": found.checkpoint, **said}
        if found.data_hash != data_hash:
            facts["data hash"] = f"{found.data_hash}, other than that of the run"
        tables = [_contenders(found), _list(found.meanings) if found.meanings else ""]
        for key, parts in (("class", found.per_class), ("group", found.per_group)):
            if parts:
                names = _ordered(found, {name for scores in parts.values() for name in scores})
                head, *rows = shown_parts(key, parts, names)
                tables.append(_table("parts", f"By {key}", head, rows))
        sections[heading] = "".join(tables) + _list({key: fact for key, fact in facts.items() if fact != ""})
    return sections or {"Scores": _note("No split has been scored: there is no evaluation-*.json.")}


def _contenders(found: Evaluation) -> str:
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
    return _table("leading", f"{found.primary} leads; higher is better.", head, rows)


def _ordered(found: Evaluation, names: set[str]) -> list[str]:
    return sorted(names, key=lambda name: (name != found.primary, name))


def _picture(panel: Panel) -> str:
    from matplotlib.image import imsave

    image, title, caption = panel.image, escape(panel.title), escape(panel.caption)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image {image.shape} {image.dtype}: must be uint8 of shape (row, col, 3)")
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(image), format="png", metadata={"Software": None})  # type: ignore[dict-item]
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    picture = f'<img width="{image.shape[1]}" height="{image.shape[0]}" alt="{title}: {caption}" src="{source}">'
    return f"<figure>{picture}<figcaption><b>{title}</b>{caption}</figcaption></figure>\n"


def _provenance(environment: dict[str, Any]) -> str:
    """Each start, then the versions at the last one; of earlier starts those that differ."""
    found = environment.get("starts")
    starts = [dict(start) for start in found if isinstance(start, dict)] if isinstance(found, list) else []
    recorded = [start.pop("versions", None) for start in starts]
    versions = [dict(_flat(each)) if isinstance(each, dict) else {} for each in recorded]
    text = "" if starts else _note("environment.json names no start.")
    for number, (start, theirs) in enumerate(zip(starts, versions, strict=True), 1):
        rows = {name: "unknown" if value is None else value for name, value in _flat(start)}
        if changed := [(name, theirs[name]) for name in theirs if theirs[name] != versions[-1].get(name)]:
            rows["other versions"] = ", ".join(f"{name} {version}" for name, version in changed)
        text += f"<h3>Start {number} of {len(starts)}</h3>\n{_list(rows)}"
    return text + (f"<h3>Versions at the last start</h3>\n{_list(versions[-1], 'columns')}" if starts else "")


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


def _note(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>\n'


def _list(rows: Mapping[str, Any], kind: str = "pairs") -> str:
    """Names and what they stand for; `kind` is its class in the style, `columns` for many short ones."""
    items = (f"<div><dt>{escape(name)}</dt><dd>{escape(_plain(value))}</dd></div>\n" for name, value in rows.items())
    return f'<dl class="{kind}">\n{"".join(items)}</dl>\n'


def _table(kind: str, caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the rows; `kind` is its class in the style."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = ""
    for name, *cells in rows:
        body += f'\n<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="{kind}">\n'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{names}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )
