"""What only the detectron2 backend has: configuration files, model zoo, and the line where it is not installed."""

from __future__ import annotations

import pickle
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geocore.errors import SettingsError, WeightsError
from slumps_detectron2.architecture import read_keys
from slumps_detectron2.config import ModelSettings
from slumps_detectron2.detectron import Detectron2Detector, build_detector, require_detectron2
from slumps_detectron2.paste_masks import paste

installed = [
    pytest.mark.detectron2,
    pytest.mark.skipif(find_spec("detectron2") is None, reason="detectron2 is not installed"),
]


def _settings(**changes: Any) -> ModelSettings:
    return ModelSettings(**{"backend": "detectron2", "depth": 18} | changes)


def _detector(bands: int = 3, classes: int = 1, seed: int = 0, **changes: Any) -> Detectron2Detector:
    torch.manual_seed(seed)
    return build_detector(_settings(**changes), bands=bands, classes=classes, tile_px=64)


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# ---- without detectron2


def test_missing_detectron2_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    for call in (require_detectron2, _detector):
        with pytest.raises(
            SettingsError, match="--package slumps-detectron2 --group detectron2 slumps-train"
        ) as refused:
            call()
        assert "not on PyPI" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_keys_of_a_file_lie_over_those_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    base = "MODEL:\n  MASK_ON: False\n  RESNETS:\n    DEPTH: 50\n    NUM_GROUPS: 1\nSOLVER:\n  BASE_LR: 1\n"
    _file(tmp_path / "base.yaml", base)
    text = '_BASE_: "../base.yaml"\nMODEL:\n  WEIGHTS: "detectron2://R-101.pkl"\n  RESNETS:\n    DEPTH: 101\n'
    path = _file(tmp_path / "below" / "deep.yaml", text)
    assert read_keys(path, 4) == {"RESNETS": {"DEPTH": 101, "NUM_GROUPS": 1}}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("MODEL:\n  PIXEL_MEAN: [1.0, 2.0, 3.0]\n", "3 values|on tiles of 4 band"),
        ("MODEL:\n  PIXEL_STD: [57.375, 57.12, 58.395]\n", "PIXEL_STD .* on tiles of 4 band"),
        ("MODEL:\n  META_ARCHITECTURE: RetinaNet\n", "only a GeneralizedRCNN with masks"),
        ("MODEL:\n  KEYPOINT_ON: true\n", "only a GeneralizedRCNN with masks"),
        ("MODEL:\n  RESNETS: !!python/object/apply:os.system ['touch stolen']\n", "not plain YAML"),
        ("MODEL: [1, 2\n", "not plain YAML"),
        ("MODEL: 3\n", "not a table of keys"),
        ("[1, 2]\n", "holds no table"),
        ("_BASE_: config.yaml\n", "leads back to the file itself"),
        ("_BASE_: https://example.org/base.yaml\n", "must be the path of a file beside it"),
        ("_BASE_: nowhere.yaml\n", "give the path of a readable file"),
    ],
)
def test_file_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, match: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = _file(tmp_path / "config.yaml", text)
    with pytest.raises(SettingsError, match=match) as refused:
        read_keys(path, 4)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "stolen").exists()


# ---- with detectron2


def _with_detectron2(test: Any) -> Any:
    for mark in installed:
        test = mark(test)
    return test


@_with_detectron2
def test_official_weights_are_those_of_the_other_backend() -> None:
    with pytest.raises(SettingsError, match="model zoo and give its path"):
        _detector(depth=50, weights="official")


@_with_detectron2
def test_configuration_decides_on_the_architecture_and_settings_on_the_rest(tmp_path: Path) -> None:
    text = """
    MODEL:
      RESNETS: {DEPTH: 34, NORM: BN}
      BACKBONE: {FREEZE_AT: 2}
      LOAD_PROPOSALS: true
      PROPOSAL_GENERATOR: {NAME: PrecomputedProposals}
      ANCHOR_GENERATOR: {SIZES: [[10], [20], [40], [80], [160]]}
      ROI_HEADS: {NUM_CLASSES: 80, SCORE_THRESH_TEST: 0.9}
      ROI_BOX_HEAD: {FC_DIM: 256}
    INPUT: {FORMAT: RGB}
    """
    path = _file(tmp_path / "config.yaml", text)
    detector = _detector(bands=5, yaml=path, score_floor=0.2)
    net = detector.net
    assert len(net.backbone.bottom_up.res4) == 6
    assert type(net.backbone.bottom_up.res4[0].conv1.norm).__name__ == "BatchNorm2d"
    assert [
        round(float(level[1, 2] - level[1, 0])) for level in net.proposal_generator.anchor_generator.cell_anchors
    ] == [10, 20, 40, 80, 160]
    assert net.roi_heads.box_head.fc1.out_features == 256
    assert type(net.proposal_generator).__name__ == "RPN"
    assert net.roi_heads.num_classes == 1
    assert net.roi_heads.box_predictor.test_score_thresh == 0.2
    assert net.backbone.bottom_up.stem.conv1.weight.shape[1] == 5
    assert all(parameter.requires_grad for parameter in net.parameters())
    path.unlink()
    # A checkpoint builds it again without the file.
    again = Detectron2Detector(_settings(), bands=5, classes=1, tile_px=64, **detector.card())
    again.load_state_dict(detector.state_dict())


@_with_detectron2
def test_cascade_has_the_same_five_losses(tmp_path: Path) -> None:
    path = _file(
        tmp_path / "cascade.yaml",
        "MODEL:\n  ROI_HEADS: {NAME: CascadeROIHeads}\n  ROI_BOX_HEAD: {CLS_AGNOSTIC_BBOX_REG: true, FC_DIM: 64}\n",
    )
    detector = _detector(yaml=path).train()
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, 10:40, 10:40] = 1
    objects = [{"boxes": torch.tensor([[10.0, 10, 40, 40]]), "labels": torch.tensor([0]), "masks": masks}]
    losses = detector.losses(torch.randn(1, 3, 64, 64), objects)
    assert set(losses) == {"objectness", "anchor_box", "classifier", "box", "mask"}
    # Three stages, each of which starts near the logarithm of two classes.
    assert losses["classifier"].item() > 1.2


@_with_detectron2
@pytest.mark.parametrize(
    "text",
    ["MODEL:\n  RESNETS: {DEEP: 3}\n", "MODEL:\n  RESNETS: {DEPTH: many}\n", "MODEL:\n  RESNETS: {RES5_DILATION: 2}\n"],
)
def test_keys_that_detectron2_does_not_take_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="detectron2 cannot build a Mask R-CNN") as refused:
        _detector(yaml=_file(tmp_path / "config.yaml", text))
    assert "\n" not in str(refused.value)


def _zoo_file(path: Path, detector: Detectron2Detector, **extra: np.ndarray) -> Path:
    """A file as the model zoo has them: a pickle of numpy arrays, with the anchors of older versions."""
    state = {name: value.numpy() for name, value in detector.net.state_dict().items()}
    state["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((3, 4), np.float32)
    with path.open("wb") as file:
        pickle.dump({"model": state | extra, "__author__": "Detectron2 Model Zoo"}, file)
    return path


@_with_detectron2
@pytest.mark.parametrize(("bands", "std", "gain"), [(3, 1.0, 57.4), (3, 57.0, 1.0), (5, 1.0, 57.4)])
def test_zoo_weights_are_fitted_to_standardised_bands(tmp_path: Path, bands: int, std: float, gain: float) -> None:
    trained = _detector(classes=80, norm="frozen-batch", seed=4)
    path = _zoo_file(tmp_path / "model_final.pkl", trained, pixel_std=np.full((3, 1, 1), std, np.float32))
    detector = _detector(bands=bands, norm="frozen-batch", weights=str(path))
    grey = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = detector.net.backbone.bottom_up.stem.conv1(grey.expand(-1, bands, -1, -1))
        theirs = trained.net.backbone.bottom_up.stem.conv1(grey.expand(-1, 3, -1, -1)) * gain
    # float32 sums over bands in another order.
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    assert detector.net.roi_heads.box_predictor.cls_score.weight.shape[0] == 2
    own, held = detector.net.state_dict(), trained.net.state_dict()
    same = [name for name in own if own[name].shape == held[name].shape and not name.endswith("stem.conv1.weight")]
    assert len(same) >= len(own) - 7
    assert all(torch.equal(own[name], held[name]) for name in same if "predictor" not in name)


@_with_detectron2
def test_zoo_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = _zoo_file(tmp_path / "model_final.pkl", _detector(norm="frozen-batch"))
    for changes, match in (({"norm": "group"}, "set model.norm to"), ({"norm": "batch", "depth": 34}, "do not fit")):
        with pytest.raises(WeightsError, match=match) as refused:
            _detector(weights=str(path), **changes)
        assert "\n" not in str(refused.value)


@_with_detectron2
def test_zoo_file_with_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": Path("x")}))
    with pytest.raises(WeightsError, match="so it is refused"):
        _detector(weights=str(path))


@_with_detectron2
@pytest.mark.parametrize("box", [(3.2, 5.1, 31.7, 33.3), (-8.0, 2.5, 70.2, 30.0), (10.0, 10.0, 12.5, 11.5)], ids=str)
def test_pasting_agrees_with_that_of_detectron2(box: tuple[float, float, float, float]) -> None:
    from detectron2.layers import paste_masks_in_image

    mask = np.random.default_rng(0).random((28, 28)).astype(np.float32)
    # A negative threshold makes it return the probabilities x 255, cut to whole numbers.
    whole = paste_masks_in_image(torch.from_numpy(mask)[None], torch.tensor([box]), (40, 50), threshold=-1)[0].numpy()
    pasted = paste(mask, np.array(box, np.float32), (40, 50))
    assert pasted is not None
    window, pixels = pasted
    theirs = whole[window.slices].astype(int)
    difference = pixels.astype(int) - theirs
    # They cut what is rounded here.
    assert difference.min() >= 0 and difference.max() <= 1


@_with_detectron2
def test_detectron2_is_imported_by_one_module_only() -> None:
    from slumps_detectron2 import detectron

    folder = Path(detectron.__file__).parent
    importing = [path.name for path in folder.glob("*.py") if "from detectron2" in path.read_text()]
    assert importing == ["detectron.py"]
