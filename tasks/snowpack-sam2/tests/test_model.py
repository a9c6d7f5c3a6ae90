"""The real SAM 2.1 architecture, strict loading of its official file format, and the adapted first convolution."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from geocore.datasets.dataset import Dataset
from geocore.datasets.statistics import BandStatistics, Statistics
from geocore.errors import WeightsError
from geocore.raster.bands import Bands
from geocore.raster.scene import Layer
from geocore.training.checkpoint import CheckpointState, load_checkpoint, save_checkpoint
from snowpack_sam2 import model as model_module
from snowpack_sam2.config import ModelSettings
from snowpack_sam2.model import BoundaryNet, Variant, build_model, build_sam, official_weights, restore_model


def _dataset(bands: int = 1) -> Dataset:
    figures = BandStatistics(
        count=10, minimum=0.0, maximum=2.0, mean=1.0, std=0.5, percentiles=dict.fromkeys((1.0, 99.0), 1.0)
    )
    names = Bands.named(*(str(index + 1) for index in range(bands)))
    return Dataset(
        root=Path(),
        task="snowpack",
        samples=[],
        layers={"photo": Layer("photo", names, "float32")},
        statistics=Statistics({"photo": (figures,) * bands}),
    )


def _network(weights: Path | str = "none", *, bands: int = 1, variant: Variant = "tiny") -> BoundaryNet:
    return build_model(_dataset(bands), ModelSettings(variant=variant, weights=str(weights)))


def _tile(bands: int = 1, size: int = 64) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(2, bands, size, size, generator=generator)
    return {"photo": {"values": values, "valid": torch.ones(2, 1, size, size, dtype=torch.bool)}}


@pytest.fixture(scope="module")
def official_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the publisher makes it: `{'model': state}` of the complete model, not only the parts used here."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": OrderedDict(build_sam("tiny").state_dict())}, path)
    return path


def test_official_checkpoint_gives_the_features_of_the_original_model(official_file: Path) -> None:
    network = _network(official_file, bands=3).eval()
    sam = build_sam("tiny")
    sam.load_state_dict(torch.load(official_file, weights_only=True)["model"])
    sam.eval()
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = sam.forward_image(photo)["backbone_fpn"]
        s0, s1, s2 = network.image_encoder(photo)["backbone_fpn"]
        ours = [network.high_resolution_s0(s0), network.high_resolution_s1(s1), s2]
    for ours_level, theirs_level in zip(ours, theirs, strict=True):
        assert torch.equal(ours_level, theirs_level)


def test_one_band_gives_the_activations_of_its_grey_replica(official_file: Path) -> None:
    one = _network(official_file, bands=1).eval()
    three = _network(official_file, bands=3).eval()
    grey = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = one.image_encoder(grey)["backbone_fpn"][0]
        replica = three.image_encoder(grey.expand(-1, 3, -1, -1))["backbone_fpn"][0]
    # Summing three filters before or after the products rounds differently: 1e-5 of activations of order 1.
    torch.testing.assert_close(ours, replica, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape", "other model"])
def test_checkpoint_that_does_not_fit_is_refused(official_file: Path, tmp_path: Path, damage: str) -> None:
    state = torch.load(official_file, weights_only=True)["model"]
    if damage == "missing":
        del state["no_mem_embed"]
    elif damage == "unexpected":
        state["head.weight"] = torch.zeros(1)
    elif damage == "shape":
        state["no_mem_embed"] = torch.zeros(2, 1, 256)
    path = tmp_path / "weights.pt"
    torch.save({"model": state}, path)
    variant: Variant = "small" if damage == "other model" else "tiny"
    with pytest.raises(WeightsError, match="do not fit") as refused:
        _network(path, variant=variant)
    assert "\n" not in str(refused.value)


def test_every_variant_matches_its_configuration() -> None:
    variants: tuple[Variant, ...] = ("tiny", "small", "base-plus", "large")
    assert {variant: build_sam(variant).image_encoder.trunk.channel_list for variant in variants} == {
        "tiny": [768, 384, 192, 96],
        "small": [768, 384, 192, 96],
        "base-plus": [896, 448, 224, 112],
        "large": [1152, 576, 288, 144],
    }


def test_logits_have_the_size_of_the_tile_and_every_parameter_learns() -> None:
    torch.manual_seed(0)
    network = _network()
    logits = network(network.normalize(_tile())["photo"])
    assert logits.shape == (2, 1, 64, 64)
    logits.square().sum().backward()
    idle = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    # The lowest level is computed for the position code of the original and then dropped ("scalp").
    assert all(name.startswith("image_encoder.neck.convs.0") or "blocks.1" in name for name in idle), idle


def test_prediction_is_deterministic_and_independent_of_the_batch() -> None:
    torch.manual_seed(0)
    network = _network().eval()
    tile = _tile()
    with torch.inference_mode():
        first, again = network.predict(tile)["boundary"], network.predict(tile)["boundary"]
        alone = network.predict({"photo": {key: value[:1] for key, value in tile["photo"].items()}})["boundary"]
    assert torch.equal(first, again)
    # Matrix products of another batch size may sum in another order.
    torch.testing.assert_close(alone, first[:1], rtol=1e-4, atol=1e-5)


def test_checkpoint_restores_the_network_that_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = _network(bands=3).eval()
    contents = CheckpointState(
        step=1,
        model=network.state_dict(),
        ema=None,
        optimizer={},
        source={},
        random=[],
        progress={},
        card={"task": "snowpack", **network.card()},
    )
    save_checkpoint(tmp_path, contents, best=True, keep=1)
    restored = restore_model(load_checkpoint(tmp_path, "best"))
    with torch.inference_mode():
        assert torch.equal(restored.predict(_tile(3))["boundary"], network.predict(_tile(3))["boundary"])
    assert restored.layer == network.layer


def test_tile_that_the_encoder_cannot_take_is_a_bug_of_the_caller() -> None:
    network = _network()
    with pytest.raises(ValueError, match="multiples of 32"):
        network.predict(_tile(size=80))


def test_offline_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, path: str, progress: bool) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(WeightsError, match="pass its path as --model.weights"):
        official_weights("tiny", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_download_is_kept_and_checked_against_its_record(
    official_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = []

    def copy(url: str, path: str, progress: bool) -> None:
        urls.append(url)
        Path(path).write_bytes(official_file.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", copy)
    path = official_weights("tiny", tmp_path)
    assert official_weights("tiny", tmp_path) == path
    assert urls == ["https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_tiny.pt"]
    path.write_bytes(b"tampered")
    with pytest.raises(WeightsError, match="has changed"):
        official_weights("tiny", tmp_path)


def test_only_this_module_imports_the_framework() -> None:
    sources = Path(model_module.__file__).parent.glob("*.py")
    importing = [path.name for path in sources if "from sam2" in path.read_text() or "import sam2" in path.read_text()]
    assert importing == ["model.py"]
