"""Samples are built once, whole or not at all, and anew when what decides them changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from geocore.samples import built_in_sample


def test_built_once_and_again_for_another_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GEOCORE_CACHE", str(tmp_path))
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        folder.mkdir()
        (folder / "scene.txt").write_text("snow")

    caplog.set_level("INFO")
    first = built_in_sample("snowpack", {"seed": 0}, build)
    assert caplog.messages == [f"drawing the built-in sample, once: {first}"]
    assert built_in_sample("snowpack", {"seed": 0}, build) == first
    assert len(built) == 1
    assert (first / "scene.txt").read_text() == "snow"
    assert built_in_sample("snowpack", {"seed": 1}, build) != first
    assert len(built) == 2


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
