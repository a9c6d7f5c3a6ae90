"""Samples are built once, whole or not at all, and anew when what decides them changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from geocore.datasets import sample_data
from geocore.datasets.sample_data import built_in_sample


def test_built_once_and_again_for_another_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GEOCORE_CACHE", str(tmp_path))
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        folder.mkdir()
        (folder / "scene.txt").write_text("snow")

    caplog.set_level("INFO", logger="geocore")
    first = built_in_sample("snowpack", {"seed": 0}, build)
    assert caplog.messages == [f"drawing the built-in sample, once: {first}"]
    assert built_in_sample("snowpack", {"seed": 0}, build) == first
    assert len(built) == 1
    assert (first / "scene.txt").read_text() == "snow"
    assert built_in_sample("snowpack", {"seed": 1}, build) != first
    assert len(built) == 2


@pytest.mark.parametrize("place", ["scenes/a.txt", "dataset.yaml", "sample.json"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "empty", "missing", "folder"])
def test_a_sample_that_is_not_what_was_drawn_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str, harm: str
) -> None:
    monkeypatch.setenv("GEOCORE_CACHE", str(tmp_path))

    def build(folder: Path) -> None:
        (folder / "scenes").mkdir(parents=True)
        (folder / "scenes/a.txt").write_text("snow")
        (folder / "dataset.yaml").write_text("samples: [a]")

    def content(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    folder = built_in_sample("snowpack", 0, build)
    drawn = content(folder)
    assert set(drawn) == {"a.txt", "dataset.yaml", "sample.json"}
    path = folder / place
    whole = path.read_bytes()
    path.unlink()
    match harm:
        case "flipped":
            path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        case "cut":
            path.write_bytes(whole[:-2])  # the last one is a line end
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
    (tmp_path / "notes.txt").touch()
    assert built_in_sample("snowpack", 0, build) == folder  # a process looks once
    sample_data._whole.clear()
    assert built_in_sample("snowpack", 0, build) == folder
    assert content(folder) == drawn
    assert caplog.messages[-1].endswith("drawing the built-in sample again")
    assert {entry.name for entry in tmp_path.iterdir()} == {folder.name, "notes.txt"}


def test_what_killed_processes_left_is_removed_when_a_sample_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_writer: str
) -> None:
    monkeypatch.setenv("GEOCORE_CACHE", str(tmp_path))
    (tmp_path / f".part-{killed_writer}").mkdir()
    (tmp_path / ".part-of-mine").mkdir()
    built = built_in_sample("snowpack", 0, lambda folder: folder.mkdir())
    assert {entry.name for entry in tmp_path.iterdir()} == {built.name, ".part-of-mine"}


def test_failed_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOCORE_CACHE", str(tmp_path))

    def build(folder: Path) -> None:
        folder.mkdir()
        (folder / "half.txt").write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        built_in_sample("snowpack", 0, build)
    assert list(tmp_path.iterdir()) == []


def test_cache_follows_the_desktop_standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEOCORE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert built_in_sample("snowpack", 0, lambda folder: folder.mkdir()).parent == tmp_path / "geocore"
