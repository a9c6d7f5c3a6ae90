"""Training on one's own images: it learns, repeats itself to the bit, and leaves the process alone."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor, nn
from torch.nn import functional

from geocore.errors import RunError, UserError
from geocore.raster.bands import Band, Bands
from geocore.raster.grid import Grid
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.segmentation.dataset import SegmentationDataset
from geocore.segmentation.evaluation import evaluate
from geocore.segmentation.fitting import Fitted, fit
from geocore.segmentation.model import DenseModel
from geocore.segmentation.prediction import predict
from geocore.transforms.augment import Flip, Noise

Splits = tuple[SegmentationDataset, SegmentationDataset, SegmentationDataset]

SHORT: dict[str, Any] = {"steps": 6, "batch_size": 2, "patch": 32, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def splits(chips: Path) -> Splits:
    data = SegmentationDataset.from_folder(chips, classes=["land", "disc", "square"], group=r"^(\w+?)_")
    return data.split(train=0.6, val=0.2)


@pytest.fixture(scope="module")
def fitted(splits: Splits, toys: SimpleNamespace) -> Fitted:
    train, val, _ = splits
    return fit(toys.net(), train, val, steps=60, batch_size=4, patch=64, lr=3e-3, device="cpu", progress=False)


def weights(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def test_a_small_network_learns_the_chips(splits: Splits, fitted: Fitted, toys: SimpleNamespace) -> None:
    _, val, test = splits
    assert evaluate(toys.net(), test)["miou"] < 0.5
    assert evaluate(fitted.model, test)["miou"] > 0.9
    assert fitted.scores is not None
    assert dict(fitted.scores) == dict(evaluate(fitted.model, val))
    assert fitted.scores["miou"] == max(line.get("validation_miou", 0) for line in fitted.history)
    assert fitted.steps == 60
    losses = [line["loss"] for line in fitted.history if "loss" in line]
    assert losses[-1] < losses[0] / 5
    assert not fitted.model.training


def test_the_model_takes_the_numbers_of_files(splits: Splits, fitted: Fitted) -> None:
    item = splits[2][0]
    image, valid = item["image"][None], item["valid"][None, None]
    anything = torch.where(valid, image, -9999.0).to(torch.int16)
    with torch.no_grad():
        by_nan = fitted.model(image)
        assert torch.equal(by_nan, fitted.model(anything, valid))
    assert by_nan.isfinite().all()
    right = by_nan[0].argmax(0)[item["mask"] != 255] == item["mask"][item["mask"] != 255]
    assert right.float().mean() > 0.95


def scene_of(values: np.ndarray[Any, Any], *bands: Band) -> Scene:
    layer = Layer("image", Bands(bands), str(values.dtype))
    return Scene("s", Grid(*values.shape[1:]), {"image": ArrayReader(layer, values)})


def test_a_model_sees_what_it_was_trained_on(fitted: Fitted, toys: SimpleNamespace) -> None:
    """Bands in another order would give a wrong map without a word, and so would numbers of another scale."""
    values, mask = toys.chip(99)
    names = ("green", "red", "nir")
    trained = Layer("image", Bands(tuple(Band(name, scale=1e-4) for name in names)), "uint16")
    model = DenseModel(fitted.model.net, fitted.model.normalize, trained, fitted.model.classes)
    same = scene_of(values, *(Band(name, scale=1e-4) for name in names))
    labels = predict(same, model, progress=False).labels
    assert (labels == mask).mean() > 0.9
    shifted = scene_of(values + np.uint16(1000), *(Band(name, scale=1e-4, offset=-0.1) for name in names))
    np.testing.assert_array_equal(predict(shifted, model, progress=False).labels, labels)
    turned = scene_of(values[::-1].copy(), *(Band(name, scale=1e-4) for name in names[::-1]))
    with pytest.raises(UserError, match=r"holds the bands nir, red, green, but .* open it with bands=\['green', 'red'"):
        predict(turned, model, progress=False)
    # Bands without names are taken in their order.
    unnamed = scene_of(values, Band("1"), Band("2"), Band("3"))
    np.testing.assert_array_equal(predict(unnamed, model, progress=False).labels, labels)
    with pytest.raises(UserError, match=r"holds the bands 1, 2, but the model was trained on green, red, nir"):
        predict(scene_of(values[:2].copy(), Band("1"), Band("2")), model, progress=False)


def test_a_model_knows_its_classes(splits: Splits, fitted: Fitted, chips: Path) -> None:
    swapped = SegmentationDataset.from_folder(chips, classes=["land", "square", "disc"])
    with pytest.raises(
        UserError, match="holds the classes land, square, disc, but the model was trained on land, disc, square"
    ):
        evaluate(fitted.model, swapped, progress=False)
    assert predict(splits[2].samples[0].image, fitted.model, progress=False).classes == {
        0: "land",
        1: "disc",
        2: "square",
    }


def test_numbers_of_another_unit_are_refused(fitted: Fitted, toys: SimpleNamespace) -> None:
    values, _ = toys.chip(99)
    reflectance = scene_of((values / 10_000).astype(np.float32), Band("1"), Band("2"), Band("3"))
    with pytest.raises(UserError, match=r"its numbers are about 1/\S+ times those of the training images .* bring it"):
        predict(reflectance, fitted.model, progress=False)


def test_a_data_set_of_another_scale_scores_the_same(
    splits: Splits, fitted: Fitted, toys: SimpleNamespace, tmp_path: Path
) -> None:
    trained = fitted.model.layer
    model = DenseModel(
        fitted.model.net,
        fitted.model.normalize,
        replace(trained, bands=Bands(tuple(replace(band, scale=1e-4) for band in trained.bands))),
        fitted.model.classes,
    )
    scores = []
    for shift in (0, 1000):
        folder = tmp_path / str(shift)
        folder.mkdir()
        for index in range(2):
            values, mask = toys.chip(50 + index)
            path = toys.write(folder / f"a{index}.tif", values + np.uint16(shift))
            with rasterio.open(path, "r+") as file:
                file.scales, file.offsets = (1e-4,) * 3, (-1e-4 * shift,) * 3
            toys.write(folder / f"a{index}_mask.tif", mask)
        data = SegmentationDataset.from_folder(folder, classes=["land", "disc", "square"])
        scores.append(evaluate(model, data, progress=False))
    assert scores[0]["miou"] > 0.9
    assert dict(scores[0]) == dict(scores[1])


def process_state() -> tuple[Any, ...]:
    return (
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002 - the generator that must stay as it is
        random.getstate(),
        torch.get_num_threads(),
        signal.getsignal(signal.SIGINT),
        set(os.listdir()),
    )


def test_twice_the_same_and_nothing_of_the_process_changed(splits: Splits, toys: SimpleNamespace) -> None:
    train, val, _ = splits
    before = process_state()
    results = [fit(nn.Sequential(toys.net(), nn.Dropout(0.1)), train, val, **SHORT) for _ in range(2)]
    assert process_state() == before
    first, second = (weights(result.model) for result in results)
    assert all(map(torch.equal, first, second))
    other = fit(nn.Sequential(toys.net(), nn.Dropout(0.1)), train, val, **SHORT, seed=1)
    assert not all(map(torch.equal, first, weights(other.model)))


def test_it_is_silent_on_request(splits: Splits, toys: SimpleNamespace, capfd: pytest.CaptureFixture[str]) -> None:
    train, val, _ = splits
    fit(toys.net(), train, val, **SHORT)
    evaluate(toys.net(), val, progress=False)
    assert capfd.readouterr() == ("", "")


def test_without_validation_the_last_weights_stay(splits: Splits, toys: SimpleNamespace) -> None:
    result = fit(toys.net(), splits[0], **SHORT)
    assert result.scores is None
    assert result.best_step == result.steps == 6


def test_a_run_folder_keeps_it(splits: Splits, tmp_path: Path, toys: SimpleNamespace) -> None:
    train, val, _ = splits
    plain = fit(toys.net(), train, val, **SHORT)
    kept = fit(toys.net(), train, val, **SHORT, run=tmp_path / "run")
    assert all(map(torch.equal, weights(plain.model), weights(kept.model)))
    assert plain.scores is not None and kept.scores is not None
    assert dict(plain.scores) == dict(kept.scores)
    assert [line["step"] for line in plain.history] == [line["step"] for line in kept.history]
    again = fit(toys.net(seed=9), train, val, **SHORT, run=tmp_path / "run")
    assert all(map(torch.equal, weights(kept.model), weights(again.model)))
    assert (again.steps, again.best_step) == (kept.steps, kept.best_step)
    with pytest.raises(RunError, match=r"optimizer.learning_rate = 0\.0003 there, 0\.1 now") as caught:
        fit(toys.net(), train, val, **SHORT, run=tmp_path / "run", lr=0.1)
    assert "\n" not in str(caught.value)


def mean_loss(logits: Tensor, mask: Tensor) -> Tensor:
    return functional.cross_entropy(logits, mask, ignore_index=255)


def sum_and_count(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return functional.cross_entropy(logits, mask, ignore_index=255, reduction="sum"), (mask != 255).sum().float()


def test_losses_by_name_and_by_function(splits: Splits, toys: SimpleNamespace) -> None:
    found = {
        name: fit(toys.net(), splits[0], **SHORT, loss=loss)
        for name, loss in (("own", sum_and_count), ("mean", mean_loss), ("named", "cross_entropy"), ("dice", "dice"))
    }
    trained = {name: weights(result.model) for name, result in found.items()}
    for own, mean, named in zip(trained["own"], trained["mean"], trained["named"], strict=True):
        assert torch.equal(own, named)
        # AdamW divides by the root of a square: gradients of 1e-8 differ in their last digits.
        torch.testing.assert_close(mean, named, rtol=0, atol=2e-5)
    assert not torch.equal(trained["dice"][0], trained["named"][0])
    # A mean is what is logged, however it came.
    assert found["mean"].history[0]["loss"] == pytest.approx(found["named"].history[0]["loss"], rel=1e-5)


def test_noise_leaves_missing_pixels_as_they_are(splits: Splits, toys: SimpleNamespace) -> None:
    seen: list[Tensor] = []
    net = nn.Sequential(nn.Identity(), toys.net())
    net[0].register_forward_hook(lambda module, given, output: seen.append(output))
    fit(net, splits[0], **(SHORT | {"patch": 128}), augment=[Noise(0.5)])
    missing = torch.cat(seen) == 0
    # Chips of 96 pixels, three columns of which are missing.
    assert (missing.all(dim=1).sum(dim=(1, 2)) >= 128**2 - 96 * 93).all()
    assert missing.float().mean() < 0.6


def test_options_reach_the_training(splits: Splits, toys: SimpleNamespace) -> None:
    plain = weights(fit(toys.net(), splits[0], **SHORT).model)
    for given in (
        {"augment": [Flip(), Noise(0.5)]},
        {"schedule": "constant"},
        {"ema": 0.5},
        {"lr": 1e-2},
        {"normalize": splits[1].statistics()},
    ):
        assert not all(map(torch.equal, plain, weights(fit(toys.net(), splits[0], **(SHORT | given)).model)))
    for given in ({"threads": 0}, {"threads": 3}):
        assert all(map(torch.equal, plain, weights(fit(toys.net(), splits[0], **(SHORT | given)).model)))


@pytest.mark.parametrize(
    "given, said",
    [
        ({"steps": 0}, "steps = 0"),
        ({"lr": -1.0}, "lr = -1"),
        ({"schedule": "step"}, "schedule = 'step'"),
        ({"ema": 1.5}, "ema = 1.5"),
        ({"patch": 0}, "patch = 0"),
        ({"loss": "focal"}, "loss = 'focal': must be cross_entropy, dice"),
        ({"primary": "iou"}, "primary = 'iou': must be one of miou"),
        ({"device": "tpu"}, "device = tpu"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    splits: Splits, given: dict[str, Any], said: str, toys: SimpleNamespace
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        fit(toys.net(), splits[0], splits[1], **(SHORT | given))
    assert "\n" not in str(caught.value)


def test_data_sets_that_differ_are_one_line(splits: Splits, chips: Path, toys: SimpleNamespace) -> None:
    other = SegmentationDataset.from_folder(chips, classes=["land", "disc", "square"], bands=[1, 2])
    with pytest.raises(UserError, match="both must have the same classes and bands") as caught:
        fit(toys.net(), splits[0], other, **SHORT)
    assert "\n" not in str(caught.value)


def test_validation_that_cannot_choose_is_refused(tmp_path: Path, toys: SimpleNamespace) -> None:
    for index in range(3):
        image, mask = toys.chip(index)
        toys.write(tmp_path / f"{index}.tif", image)
        toys.write(tmp_path / f"{index}_mask.tif", mask if index else 0 * mask)
    data = SegmentationDataset.from_folder(tmp_path, classes=["land", "disc", "square"])
    assert data.class_pixels() == {
        name: sum(int((toys.chip(index)[1] == value).sum()) for index in (1, 2)) + (96**2 if value == 0 else 0)
        for value, name in enumerate(data.classes)
    }
    with pytest.raises(UserError, match="val holds nothing but land, so that miou cannot choose") as caught:
        fit(toys.net(), data.subset(data.samples[1:]), data.subset(data.samples[:1]), **SHORT)
    assert "\n" not in str(caught.value)


@pytest.mark.real
@pytest.mark.skipif("GEOCORE_DATA" not in os.environ, reason="GEOCORE_DATA names no folder of real data")
def test_water_of_a_published_chip(tmp_path: Path, toys: SimpleNamespace) -> None:
    folder = Path(os.environ["GEOCORE_DATA"]) / "flood-burn" / "flood"
    for name in ("S2Hand", "LabelHand"):
        (tmp_path / f"Spain_7370579_{name}.tif").symlink_to(folder / f"Spain_7370579_{name}.tif")
    data = SegmentationDataset.from_folder(
        tmp_path,
        image_suffix="_S2Hand",
        mask_suffix="_LabelHand",
        classes=["land", "water"],
        ignore=-1,
        bands=[2, 3, 4, 8, 12],
    )
    assert data.class_pixels() == {"land": 192_010, "water": 70_035}
    train, val, test = data.split(train=0.6, val=0.2, by="block", block_m=1000, buffer_m=100)
    net = toys.net(bands=5, classes=2)
    assert evaluate(net, test, progress=False)["iou_water"] < 0.5
    found = fit(net, train, val, steps=40, patch=32, lr=3e-3, primary="iou_water", device="cpu", progress=False)
    scores = evaluate(found.model, test, progress=False)
    assert scores["iou_water"] > 0.6
    low, high = scores.interval("iou_water")
    assert low < scores["iou_water"] < high


@pytest.mark.parametrize("network", [nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 3, stride=2), nn.Conv2d(5, 3, 1)])
def test_a_network_that_does_not_fit_is_refused_without_validation_too(splits: Splits, network: nn.Module) -> None:
    with pytest.raises(UserError, match=r"must give logits of shape .* = \(2, 3, 32, 32\)|cannot take an image"):
        fit(network, splits[0], **SHORT)
