"""Published fine-tuned checkpoints become runs. The files are made here, under the names of the real ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from floods_prithvi import published
from floods_prithvi.config import ImportSettings, TrainSettings
from floods_prithvi.model import CLASSES, FloodNet, restore_model
from floods_prithvi.published import PUBLISHED, Published, import_checkpoint, network_of
from geocore.errors import WeightsError
from geocore.training.checkpoint import load_checkpoint

torch.set_num_threads(1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Published]:
    """The published configurations on the smallest backbone; the real ones have 100 million parameters."""
    tiny = {
        name: dataclasses.replace(each, settings={**each.settings, "model": {"variant": "v2-tiny", "auxiliary": 1.0}})
        for name, each in PUBLISHED.items()
    }
    monkeypatch.setattr(published, "PUBLISHED", tiny)
    return tiny


def released(path: Path, each: Published, *, extra: tuple[str, ...] = ()) -> FloodNet:
    """Write a file as mmsegmentation left it, and return the network that is in it."""
    torch.manual_seed(3)
    each = dataclasses.replace(each, classes=(*each.classes, *extra))
    net = network_of(each, TrainSettings.model_validate(dict(each.settings))).eval()
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("normalize.")}
    state["backbone.pos_embed"] = net.backbone.pos_embed
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, path)
    return net


def inputs(each: Published) -> dict[str, dict[str, torch.Tensor]]:
    dated = (each.frames,) if each.frames > 1 else ()
    values = torch.rand(1, *dated, 6, 48, 48)
    return {"image": {"values": values, "valid": torch.ones(1, *dated, 1, 48, 48, dtype=torch.bool)}}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_run_of_a_published_file_says_what_the_file_says(
    small: dict[str, Published], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    net = released(tmp_path / "released.pth", small[name])
    import_checkpoint(
        ImportSettings(weights=tmp_path / "released.pth", run=tmp_path / "run", published=name)  # type: ignore[arg-type]
    )
    assert "floods-evaluate --run" in capsys.readouterr().out
    again = restore_model(load_checkpoint(tmp_path / "run/checkpoints", "best"))
    given = inputs(small[name])
    with torch.no_grad():
        assert torch.equal(again.predict(given)[CLASSES], net.predict(given)[CLASSES])
    assert tuple(again.class_names.values()) == PUBLISHED[name].classes and again.frames == PUBLISHED[name].frames
    (normalization,) = again.normalize.card()["layers"].values()
    assert normalization["mean"] == list(PUBLISHED[name].mean) and normalization["std"] == list(PUBLISHED[name].std)


def test_class_of_pixels_without_a_label_is_left_out(
    small: dict[str, Published], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Probabilities are those of land and water alone: e^a / (e^a + e^b) of the file's first two logits."""
    net = released(tmp_path / "released.pth", small["sen1floods11"], extra=("nothing",))
    import_checkpoint(ImportSettings(weights=tmp_path / "released.pth", run=tmp_path / "run"))
    assert "ignored in training" in capsys.readouterr().out
    again = restore_model(load_checkpoint(tmp_path / "run/checkpoints", "best"))
    given = inputs(small["sen1floods11"])
    with torch.no_grad():
        logits = net(net.images(given))[CLASSES][:, :2]
        torch.testing.assert_close(again.predict(given)[CLASSES], logits.softmax(1), rtol=0, atol=1e-6)


def test_file_of_another_model_is_refused_and_no_run_is_made(small: dict[str, Published], tmp_path: Path) -> None:
    released(tmp_path / "released.pth", small["multi-temporal-crop"])
    with pytest.raises(WeightsError, match="classes|file") as caught:
        import_checkpoint(ImportSettings(weights=tmp_path / "released.pth", run=tmp_path / "run"))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_file_that_goes_while_it_is_read_is_one_line(
    small: dict[str, Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "released.pth"
    released(path, small["sen1floods11"])
    load = published.load_published

    def load_and_lose(*given: Any) -> Any:
        loaded = load(*given)
        path.unlink()
        return loaded

    monkeypatch.setattr(published, "load_published", load_and_lose)
    with pytest.raises(WeightsError, match="No such file or directory: must be a readable file") as caught:
        import_checkpoint(ImportSettings(weights=path, run=tmp_path / "run"))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
