"""Report: one self-contained file that says what a run folder holds and what it lacks."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from geocore.errors import RunError
from geocore.metrics.evaluation import Evaluation
from geocore.report.report import Panel, write_report
from geocore.storage.files import write_sealed

VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a browser would make of the page: its text, and the elements with their attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def a_run(folder: Path, *, task: str = "toy", log: str = "") -> Path:
    folder.mkdir()
    start = {"started": "2026-01-02T03:04:05+0000", "command": "toy-train --run r", "python": "3.11.7", "git": None,
             "platform": "Linux-6", "versions": {"numpy": "2.0.0", "geocore": "0.1.0"}}  # fmt: skip
    again = start | {"command": "toy-train --run r --steps 20", "versions": {"numpy": "2.4.0", "geocore": "0.1.0"}}
    steps = [{"step": step, "loss": 2.0 / step, "learning_rate": 0.1} for step in range(1, 31)]
    steps += [{"step": step, "validation_iou": step / 40, "validation_rmse_m": 90.0 / step} for step in (10, 20, 30)]
    finished = {"primary": "iou", "steps": 30, "best_step": 20, "best_score": 0.51239, "stopped_early": True}
    (folder / "run.json").write_text(json.dumps({"task": task, "data_hash": "ab12", "settings": {}}))
    (folder / "config.yaml").write_text("model: {name: net, size: [2, 3]}\nsince: 2026-01-02\n")
    (folder / "environment.json").write_text(json.dumps({"starts": [start, again]}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps) + log)
    write_sealed(folder / "finished.json", finished)
    an_evaluation(task=task).save(folder / "evaluation-test.json")
    return folder


def an_evaluation(**changes: object) -> Evaluation:
    fields: dict[str, object] = {
        "task": "toy", "split": "test", "protocol": {"tile": 64}, "samples": 3, "primary": "iou",
        "model": {"accuracy": 0.9, "iou": 0.75}, "untrained": {"iou": 0.1}, "baselines": {"threshold": {"iou": 0.5}},
        "per_class": {"snow": {"iou": 0.8125}, "rock": {"iou": None}}, "per_group": {"site-a": {"iou": 0.6875}},
        "intervals": {"iou": (0.7, 0.8)}, "checkpoint": "step-000020", "data_hash": "ab12", "versions": {},
    }  # fmt: skip
    return Evaluation(**(fields | changes))


def test_report_says_what_the_folder_holds(tmp_path: Path) -> None:
    path = write_report(a_run(tmp_path / "first"))
    assert path == tmp_path / "first/report.html"
    page = Page(path)
    assert page.open == []
    for said in (
        "toy: first",
        "data hash ab12",
        "state finished after 30 steps, stopped early",
        "best validation iou 0.5124 at step 20",
        "loss from 2 at step 1 to 0.06667 at step 30",
        "iou from 0.25 at step 10 to 0.75 at step 30",
        "Validation: rmse_m",
        "Scores on test",
        "score model 95 % interval untrained threshold iou 0.7500 0.7000 to 0.8000 0.1000 0.5000 accuracy 0.9000 - -",
        "class iou snow 0.8125 rock -",
        "group iou site-a 0.6875",
        "samples 3 checkpoint step-000020 tile 64",
        'model.name net model.size [2, 3] since "2026-01-02"',
        "command toy-train --run r python 3.11.7 git unknown platform Linux-6 other versions numpy 2.0.0",
        "command toy-train --run r --steps 20",
        "Versions at the last start numpy 2.4.0 geocore 0.1.0",
    ):
        assert said in page.text, said
    assert "learning_rate" not in page.text
    assert "other than that of the run" not in page.text


def test_nothing_is_loaded_and_no_script_runs(tmp_path: Path) -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    path = write_report(a_run(tmp_path / "run"), panels=[Panel("wall", "dark", image)])
    page = Page(path)
    assert {"script", "link", "iframe", "object", "base"}.isdisjoint(name for name, _ in page.elements)
    sources = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert sources and all(value is not None and value.startswith(("data:image/png", "#")) for value in sources)
    text = path.read_text(encoding="utf-8")
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_drawings_are_named_follow_the_style_and_share_no_identifier(tmp_path: Path) -> None:
    path = write_report(a_run(tmp_path / "run"))
    page = Page(path)
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    drawings = page.all("svg")
    assert len(drawings) == 3
    for drawing in drawings:
        assert drawing["role"] == "img"
        assert set((drawing["aria-labelledby"] or "").split()) <= set(names)
    used = [value.removeprefix("#") for tag in page.all("use") if (value := tag.get("xlink:href"))]
    used += re.findall(r"url\(#([^)]*)\)", path.read_text(encoding="utf-8"))
    assert used and set(used) <= set(names)
    drawn = "".join(re.findall(r"<svg.*?</svg>", path.read_text(encoding="utf-8"), re.DOTALL))
    assert "var(--c0)" in drawn and "currentColor" in drawn
    assert not re.findall(r"#[0-9a-f]{6}\b(?=[;\"])", drawn.replace("xlink:href", ""))


def test_every_text_is_escaped(tmp_path: Path) -> None:
    evil = '<img src=x onerror="alert(1)">&'
    folder = a_run(tmp_path / "a<b>&c", task=evil, log=json.dumps({"step": 30, f"loss{evil}": 1.0}) + "\n")
    (folder / "config.yaml").write_text(json.dumps({evil: evil}))
    (folder / "environment.json").write_text(json.dumps({"starts": [{"command": evil, evil: "\ud800"}]}))
    scores = {"iou": 0.5, evil: 0.5}
    an_evaluation(
        model=scores, per_class={evil: scores}, per_group={evil: scores}, baselines={evil: scores}, checkpoint=evil,
        protocol={evil: evil}, data_hash=evil,
    ).save(folder / "evaluation-test.json")  # fmt: skip
    an_evaluation().save(folder / "evaluation-<i>.json")
    page = Page(write_report(folder, panels=[Panel(evil, evil, np.zeros((1, 1, 3), np.uint8))]))
    assert page.open == []
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert len(page.all("img")) == 1 and not page.all("i") and len(page.all("b")) == 4
    assert page.text.count(evil) >= 15


def test_same_folder_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, panels = a_run(tmp_path / "run"), [Panel("a", "b", np.arange(36, dtype=np.uint8).reshape(3, 4, 3))]
    first = write_report(folder, panels=panels).read_bytes()
    # A user's own matplotlib settings change nothing, and stay as they were.
    monkeypatch.setitem(matplotlib.rcParams, "axes.grid", True)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    assert write_report(folder, panels=panels).read_bytes() == first
    assert matplotlib.rcParams["font.size"] == 30.0
    assert not [entry for entry in folder.iterdir() if entry.name.startswith(".")]


def test_missing_parts_are_said(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path))
    assert page.text.startswith(
        f"unknown task: {tmp_path.name} unknown task: {tmp_path.name} run There is no run.json."
    )
    for said in (
        "state not finished",
        "metrics.jsonl is missing",
        "there is no evaluation-*.json",
        "There is no config.yaml.",
        "There is no environment.json.",
    ):
        assert said in page.text, said
    assert "Pictures" not in page.text


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"starts": 3}', b'{"starts": [{"versions": 1}]}']
)
def test_damaged_parts_are_said(tmp_path: Path, content: bytes) -> None:
    names = ("run.json", "config.yaml", "environment.json", "finished.json", "metrics.jsonl", "evaluation-test.json")
    for name in names:
        (tmp_path / name).write_bytes(content)
    page = Page(write_report(tmp_path))
    assert page.open == []
    assert "evaluation-test.json cannot be read" in page.text
    assert "No losses and no validation scores" in page.text


def test_unfinished_lines_and_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    log = (
        json.dumps({"step": 31, "loss": None, "loss_dice": 0.5, "validation_iou": float("nan")}) + '\n{"step": 32, "lo'
    )
    page = Page(write_report(a_run(tmp_path / "run", log=log)))
    assert "loss from 2 at step 1 to not finite at step 31; loss_dice from 0.5 at step 31" in page.text
    assert "step 32" not in page.text
    # A score without data does not push the others of its kind out of the chart of shares.
    assert "Validation: iou" not in page.text


def test_evaluation_on_other_data_is_marked(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    an_evaluation(data_hash="cd34").save(folder / "evaluation-test.json")
    assert "data hash cd34, other than that of the run" in Page(write_report(folder)).text


def test_pictures_are_kept_to_the_pixel(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    page = Page(write_report(tmp_path, panels=[Panel("wall", "F1 0.5", image[:, ::-1])]))
    (picture,) = page.all("img")
    source = picture["src"] or ""
    shown = matplotlib.image.imread(BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,"))))
    assert np.array_equal(np.rint(shown[..., :3] * 255), image[:, ::-1])
    assert picture["alt"] == "wall: F1 0.5" and "wall F1 0.5" in page.text
    with pytest.raises(ValueError, match=r"uint8 of shape \(row, col, 3\)"):
        write_report(tmp_path, panels=[Panel("wall", "", image[..., 0])])


def test_more_curves_than_colours_are_told_apart(tmp_path: Path) -> None:
    line = {"step": 1, **{f"validation_iou_{number:02d}": 0.5 for number in range(20)}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    looks = [key["style"] for key in Page(write_report(tmp_path)).all("span") if key.get("class") == "key"]
    assert len(set(looks)) == len(looks) == 20


def test_absent_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        write_report(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_import_needs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, geocore.report.report; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
