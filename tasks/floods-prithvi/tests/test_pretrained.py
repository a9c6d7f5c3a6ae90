"""Weights made elsewhere: files under the released names are made here, from the published architecture.

Shapes are those of the real files where that is what is tested. Such a file is small: torch stores a tensor of one
repeated number as one number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from floods_prithvi.backbone import Prithvi
from floods_prithvi.heads import FcnHead, Neck, UnetHead
from floods_prithvi.pretrained import LoadTable, import_backbone, import_published, import_weights
from floods_prithvi.variants import VARIANTS, VariantSpec
from geocore.errors import WeightsError

#: Small, but with patches, depth and dates as in the files; images of 224 px have 14 x 14 tokens.
V1 = replace(VARIANTS["v1-100m"], dim=48, depth=3, heads=3)
V2 = replace(VARIANTS["v2-100m"], dim=48, depth=3, heads=3)

State = dict[str, Tensor]


# ---- names and shapes of the released files


def _encoder_shapes(spec: VariantSpec) -> dict[str, tuple[int, ...]]:
    dim, patch = spec.dim, spec.patch_px
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "patch_embed.proj.weight": (dim, 6, 1, patch, patch),
        "patch_embed.proj.bias": (dim,),
    }
    for number in range(spec.depth):
        shapes |= _block_shapes(f"blocks.{number}", dim)
    return shapes | {"norm.weight": (dim,), "norm.bias": (dim,)}


def _block_shapes(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.norm1.weight": (dim,),
        f"{name}.norm1.bias": (dim,),
        f"{name}.attn.qkv.weight": (3 * dim, dim),
        f"{name}.attn.qkv.bias": (3 * dim,),
        f"{name}.attn.proj.weight": (dim, dim),
        f"{name}.attn.proj.bias": (dim,),
        f"{name}.norm2.weight": (dim,),
        f"{name}.norm2.bias": (dim,),
        f"{name}.mlp.fc1.weight": (4 * dim, dim),
        f"{name}.mlp.fc1.bias": (4 * dim,),
        f"{name}.mlp.fc2.weight": (dim, 4 * dim),
        f"{name}.mlp.fc2.bias": (dim,),
    }


def _decoder_dim(spec: VariantSpec) -> int:
    return 512 if spec in VARIANTS.values() else 32


def _decoder_shapes(spec: VariantSpec) -> dict[str, tuple[int, ...]]:
    dim, depth = _decoder_dim(spec), 8 if spec in VARIANTS.values() else 2
    shapes: dict[str, tuple[int, ...]] = {
        "mask_token": (1, 1, dim),
        "decoder_embed.weight": (dim, spec.dim),
        "decoder_embed.bias": (dim,),
    }
    for number in range(depth):
        shapes |= _block_shapes(f"decoder_blocks.{number}", dim)
    pixels = spec.patch_px**2 * 6
    return shapes | {
        "decoder_norm.weight": (dim,),
        "decoder_norm.bias": (dim,),
        "decoder_pred.weight": (pixels, dim),
        "decoder_pred.bias": (pixels,),
    }


def _head_shapes(width: int, classes: int, *, auxiliary: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for part in ("fpn1", "fpn2"):
        for layer in ("0", "3"):
            shapes |= {f"neck.{part}.{layer}.weight": (width, width, 2, 2), f"neck.{part}.{layer}.bias": (width,)}
        shapes |= {f"neck.{part}.1.ln.weight": (width,), f"neck.{part}.1.ln.bias": (width,)}
    for head, convs in (("decode_head", 1), ("auxiliary_head", 2))[: 2 if auxiliary else 1]:
        for number in range(convs):
            shapes[f"{head}.convs.{number}.conv.weight"] = (256, width if number == 0 else 256, 3, 3)
            for kind in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{head}.convs.{number}.bn.{kind}"] = (256,)
            shapes[f"{head}.convs.{number}.bn.num_batches_tracked"] = ()
        shapes |= {f"{head}.conv_seg.weight": (classes, 256, 1, 1), f"{head}.conv_seg.bias": (classes,)}
    return shapes


def _position_code(dim: int, times: int, edge: int = 14) -> Tensor:
    """As models_mae.py of hls-foundation-os makes it: numpy, one grid for each axis."""

    def axis(size: int, positions: np.ndarray) -> np.ndarray:
        angles = np.outer(positions, 1.0 / 10000 ** (np.arange(size // 2) / (size / 2.0)))
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    time, row, col = (one.ravel() for one in np.indices((times, edge, edge)))
    parts = [axis(dim // 16 * 6, col), axis(dim // 16 * 6, row), axis(dim // 16 * 4, time)]
    code = np.concatenate([np.zeros((1, dim)), np.concatenate(parts, axis=1)])
    return torch.from_numpy(code).float()[None]


def _repeated(shapes: dict[str, tuple[int, ...]]) -> State:
    """One number for each name, other than the next one's, in 4 bytes of the file."""
    return {
        name: torch.tensor(0.001 * (1 + number)).expand(shape) for number, (name, shape) in enumerate(shapes.items())
    }


def _random(shapes: dict[str, tuple[int, ...]], seed: int = 7) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.tensor(1500) if name.endswith("tracked") else torch.rand(shape, generator=generator)
        for name, shape in shapes.items()
    }


def _v1_file(spec: VariantSpec, make: Callable[[dict[str, tuple[int, ...]]], State] = _random) -> State:
    code = {"pos_embed": _position_code(spec.dim, 3), "decoder_pos_embed": _position_code(_decoder_dim(spec), 3)}
    return make(_encoder_shapes(spec)) | make(_decoder_shapes(spec)) | code


def _v2_file(spec: VariantSpec, *, tl: bool, make: Callable[[dict[str, tuple[int, ...]]], State] = _random) -> State:
    encoder = make(_encoder_shapes(spec)) | {"pos_embed": _position_code(spec.dim, spec.frames)}
    decoder = make(_decoder_shapes(spec)) | {"decoder_pos_embed": _position_code(_decoder_dim(spec), spec.frames)}
    if tl:
        encoder |= {"temporal_embed_enc.scale": torch.tensor([0.25]), "location_embed_enc.scale": torch.tensor([0.5])}
        decoder |= {"temporal_embed_dec.scale": torch.tensor([0.75]), "location_embed_dec.scale": torch.tensor([1.0])}
    return {f"encoder.{name}": value for name, value in encoder.items()} | {
        f"decoder.{name}": value for name, value in decoder.items()
    }


def _mmseg_file(
    spec: VariantSpec,
    *,
    classes: int = 2,
    frames: int = 1,
    make: Callable[[dict[str, tuple[int, ...]]], State] = _random,
) -> State:
    backbone = make(_encoder_shapes(spec)) | {"pos_embed": _position_code(spec.dim, frames)}
    return {f"backbone.{name}": value for name, value in backbone.items()} | make(
        _head_shapes(spec.dim * frames, classes)
    )


def _mmseg_wrapped(state: State) -> dict[str, Any]:
    """What mmcv writes around the weights."""
    meta = {
        "epoch": 80,
        "iter": 5040,
        "CLASSES": ("land", "water"),
        "PALETTE": [[0, 0, 0], [0, 0, 255]],
        "mmcv_version": "1.6.2",
        "config": "num_frames = 1\n",
        "hook_msgs": {"best_score": np.float64(0.88)},
    }
    return {"meta": meta, "state_dict": state, "optimizer": {"state": {0: {"step": 5040}}, "param_groups": []}}


def _save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


class _Network(nn.Module):
    """Parts as in FloodNet."""

    def __init__(
        self, spec: VariantSpec, *, classes: int = 2, frames: int = 1, auxiliary: bool = True, unet: bool = False
    ) -> None:
        super().__init__()
        width = spec.dim * frames
        self.normalize = nn.Module()
        self.normalize.register_buffer("mean", torch.full((6,), 0.5))
        self.backbone = Prithvi(spec, frames=frames, coordinates=False)
        self.neck = None if unet else Neck(width)
        self.decode_head: nn.Module
        if unet:
            self.decode_head = UnetHead(width, classes=classes, dropout=0.1)
        else:
            self.decode_head = FcnHead(width, 256, convs=1, classes=classes, dropout=0.1)
        self.auxiliary_head = FcnHead(width, 256, convs=2, classes=classes, dropout=0.1) if auxiliary else None


def _names(table: LoadTable, outcome: str) -> set[str]:
    return {row.name for row in table.rows if row.outcome == outcome}


@pytest.fixture
def backbone() -> Prithvi:
    torch.manual_seed(0)
    return Prithvi(V1, frames=1, coordinates=False)


@pytest.fixture
def unchanged(backbone: Prithvi) -> Iterator[None]:
    """A refused file leaves the network as it was."""
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    yield
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def _refusal(call: Callable[[], object]) -> str:
    with pytest.raises(WeightsError) as refused:
        call()
    text = str(refused.value)
    assert "\n" not in text and len(text) < 500
    return text


# ---- the three dialects


def test_prithvi_100m_loads_in_its_real_size(tmp_path: Path) -> None:
    spec = VARIANTS["v1-100m"]
    state = _v1_file(spec, _repeated)
    backbone = Prithvi(spec, frames=1, coordinates=False)
    table = import_backbone(_save(tmp_path / "Prithvi_100M.pt", state), backbone)
    own = backbone.state_dict()
    # 1 class token, 2 of the patches, 12 in each of 12 blocks, 2 of the norm.
    assert table.count("loaded") == len(own) == 149
    for name, value in own.items():
        assert torch.equal(value, state[name]), name
    assert _names(table, "left out") == {"pos_embed", "decoder_pos_embed", *_decoder_shapes(spec)}
    reasons = {row.name: row.reason for row in table.rows}
    assert reasons["mask_token"] == "decoder of pre-training" and reasons["pos_embed"] == "computed, and the same"
    text = table.text()
    assert "149 loaded, 105 left out" in text.splitlines()[0]
    assert len(text.splitlines()) < 16
    assert any(line.split() == ["loaded", "144", "blocks"] for line in text.splitlines())


@pytest.mark.parametrize("frames", [1, 3, 4])
def test_flat_names_load_for_any_number_of_dates(tmp_path: Path, frames: int) -> None:
    state = _v1_file(V1)
    backbone = Prithvi(V1, frames=frames, coordinates=False)
    import_backbone(_save(tmp_path / "v1.pt", state), backbone)
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("tl", [True, False])
def test_prefixed_names_load_without_time_and_place(tmp_path: Path, tl: bool) -> None:
    state = _v2_file(V2, tl=tl)
    backbone = Prithvi(V2, frames=1, coordinates=False)
    table = import_backbone(_save(tmp_path / "v2.pt", state), backbone)
    assert all(torch.equal(value, state[f"encoder.{name}"]) for name, value in backbone.state_dict().items())
    off = {row.name for row in table.rows if "model.coordinates false" in row.reason}
    assert off == ({"encoder.temporal_embed_enc.scale", "encoder.location_embed_enc.scale"} if tl else set())
    assert {row.name for row in table.rows} == set(state)


def test_prefixed_names_load_with_time_and_place(tmp_path: Path) -> None:
    backbone = Prithvi(V2, frames=1, coordinates=True)
    import_backbone(_save(tmp_path / "TL.pt", _v2_file(V2, tl=True)), backbone)
    assert backbone.temporal_embed_enc.scale.tolist() == [0.25]
    assert backbone.location_embed_enc.scale.tolist() == [0.5]
    text = _refusal(lambda: import_backbone(_save(tmp_path / "v2.pt", _v2_file(V2, tl=False)), backbone))
    assert "whose name ends in TL, or set model.coordinates to false" in text


def test_published_network_loads_whole(tmp_path: Path) -> None:
    state = _mmseg_file(V1)
    network = _Network(V1)
    table = import_published(_save(tmp_path / "floods.pth", _mmseg_wrapped(state)), network)
    own = network.state_dict()
    assert _names(table, "loaded") == set(state) - {"backbone.pos_embed"} == set(own) - {"normalize.mean"}
    assert all(torch.equal(own[name], state[name]) for name in _names(table, "loaded"))
    assert int(own["decode_head.convs.0.bn.num_batches_tracked"]) == 1500
    assert float(own["normalize.mean"][0]) == 0.5
    assert _names(table, "left out") == {"backbone.pos_embed"}


def test_published_network_loads_without_its_auxiliary_head(tmp_path: Path) -> None:
    network = _Network(V1, auxiliary=False)
    table = import_published(_save(tmp_path / "floods.pth", _mmseg_wrapped(_mmseg_file(V1))), network)
    left = {row.name: row.reason for row in table.rows if row.outcome == "left out"}
    assert left.pop("backbone.pos_embed")
    assert all(name.startswith("auxiliary_head.") and "the network has none" in left[name] for name in left)
    assert len(left) == 14


def test_backbone_of_a_published_network_loads_alone(tmp_path: Path, backbone: Prithvi) -> None:
    state = {f"module.{name}": value for name, value in _mmseg_file(V1, frames=3).items()}
    import_backbone(_save(tmp_path / "floods.pth", _mmseg_wrapped(state)), backbone)
    assert all(torch.equal(value, state[f"module.backbone.{name}"]) for name, value in backbone.state_dict().items())


def test_crop_model_of_six_blocks_loads_as_itself(tmp_path: Path) -> None:
    spec = VARIANTS["crop-6"]
    state = _mmseg_file(spec, classes=13, frames=3, make=_repeated)
    path = _save(tmp_path / "crops.pth", _mmseg_wrapped(state))
    backbone = Prithvi(spec, frames=3, coordinates=False)
    assert import_backbone(path, backbone).count("loaded") == 1 + 2 + 6 * 12 + 2
    assert backbone.blocks[0].attn.heads == 8
    assert all(torch.equal(value, state[f"backbone.{name}"]) for name, value in backbone.state_dict().items())
    # Twelve blocks are no crop model, whose heads are others, nor is it the first half of a larger one.
    whole = _save(tmp_path / "Prithvi_100M.pt", _v1_file(VARIANTS["v1-100m"], _repeated))
    text = _refusal(lambda: import_backbone(whole, backbone))
    assert "12 blocks" in text and "crop-6 has dim 768, 6 blocks" in text and "take model.variant v1-100m" in text
    with torch.device("meta"):
        larger = Prithvi(VARIANTS["v1-100m"], frames=3, coordinates=False)
    text = _refusal(lambda: import_backbone(path, larger))
    assert "6 blocks" in text and "v1-100m has dim 768, 12 blocks" in text and "take model.variant crop-6" in text


def test_half_precision_loads(tmp_path: Path, backbone: Prithvi) -> None:
    state = {name: value.half() for name, value in _v1_file(V1).items()}
    import_backbone(_save(tmp_path / "half.pt", state), backbone)
    assert torch.equal(backbone.norm.weight, state["norm.weight"].float())


# ---- starting a network from either kind of file


def test_network_starts_from_prithvi_with_a_random_head(tmp_path: Path) -> None:
    network = _Network(V1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = _v1_file(V1)
    table = import_weights(_save(tmp_path / "v1.pt", state), network)
    for name, value in network.state_dict().items():
        expected = state[name.removeprefix("backbone.")] if name.startswith("backbone.") else before[name]
        assert torch.equal(value, expected), name
    heads = {name for name in before if name.split(".")[0] in ("neck", "decode_head", "auxiliary_head")}
    assert _names(table, "not in the file") == heads
    assert f"{len(heads)} not in the file" in table.text()


def test_network_starts_from_a_published_one_with_its_head(tmp_path: Path) -> None:
    network = _Network(V1)
    state = _mmseg_file(V1)
    table = import_weights(_save(tmp_path / "floods.pth", _mmseg_wrapped(state)), network)
    assert table.count("not in the file") == 0
    assert all(torch.equal(network.state_dict()[name], state[name]) for name in _names(table, "loaded"))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda: _Network(V1, classes=5), "2 classes in the file, 5 in the network"),
        (lambda: _Network(V1, unet=True, auxiliary=False), "the network has another head"),
        (
            lambda: _Network(V1, frames=3),
            "decode_head.convs.0.conv.weight (256, 48, 3, 3) in the file, (256, 144, 3, 3)",
        ),
    ],
)
def test_network_starts_from_the_backbone_where_the_head_is_another(
    tmp_path: Path, network: Callable[[], _Network], reason: str
) -> None:
    state = _mmseg_file(V1)
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = import_weights(_save(tmp_path / "floods.pth", _mmseg_wrapped(state)), model)
    assert all(name.startswith("backbone.") for name in _names(table, "loaded"))
    own = model.state_dict()
    for name in own:
        loaded = name.startswith("backbone.")
        assert torch.equal(own[name], state[name] if loaded else before[name]), name
    kept = {row.reason for row in table.rows if row.outcome == "left out" and row.name.startswith("decode_head.")}
    assert len(kept) == 1 and kept.pop().startswith(reason)
    assert _names(table, "not in the file") == {n for n in own if not n.startswith(("backbone.", "normalize."))}


def test_network_starts_from_a_checkpoint_of_this_task(tmp_path: Path) -> None:
    source, network = _Network(V1), _Network(V1)
    source.normalize.mean.fill_(0.25)  # type: ignore[union-attr, operator]
    path = tmp_path / "model.safetensors"
    save_file(source.state_dict(), path)
    table = import_weights(path, network)
    assert {row.name: row.reason for row in table.rows if row.outcome == "left out"} == {
        "normalize.mean": "statistics of its data set"
    }
    own = network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in source.state_dict().items() if name != "normalize.mean")
    assert float(own["normalize.mean"][0]) == 0.5


# ---- contradictions


@pytest.mark.parametrize(
    ("file", "variant", "match"),
    [
        ("v2-300m", "v1-100m", ["dim 1024, 24 blocks, patch 16 px", "v1-100m has dim 768, 12", "variant v2-300m"]),
        ("v2-600m", "v2-300m", ["dim 1280, 32 blocks, patch 14 px", "v2-300m has dim 1024", "variant v2-600m"]),
        ("v2-tiny", "v2-100m", ["dim 192, 12 blocks", "v2-100m has dim 768", "variant v2-tiny"]),
        ("v2-100m", "v1-100m", ["know time and place, but v1-100m does not", "variant v2-100m"]),
        ("v1-100m", "v2-100m", ["pre-trained on 3 dates, but v2-100m on 4", "variant v1-100m"]),
    ],
)
def test_weights_of_another_variant_are_refused_by_both_names(
    tmp_path: Path, file: str, variant: str, match: list[str]
) -> None:
    held = VARIANTS[file]  # type: ignore[index]
    state = _v1_file(held, _repeated) if file == "v1-100m" else _v2_file(held, tl=True, make=_repeated)
    with torch.device("meta"):
        backbone = Prithvi(VARIANTS[variant], frames=1, coordinates=False)  # type: ignore[index]
    path = _save(tmp_path / "weights.pt", state)
    text = _refusal(lambda: import_backbone(path, backbone))
    assert all(part in text for part in match), text


def test_published_network_of_other_classes_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "floods.pth", _mmseg_wrapped(_mmseg_file(V1, classes=3)))
    network = _Network(V1)
    before = network.decode_head.state_dict()["conv_seg.bias"].clone()
    text = _refusal(lambda: import_published(path, network))
    assert "3 classes in the file, 2 in the network" in text
    assert torch.equal(network.decode_head.state_dict()["conv_seg.bias"], before)
    assert "another head" not in text


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (lambda: _Network(V1, unet=True, auxiliary=False), "missing (decode_head.levels"),
        (lambda: _Network(V1, frames=3), "decode_head.convs.0.conv.weight (256, 48, 3, 3) in the file"),
    ],
)
def test_published_network_of_another_head_is_refused(
    tmp_path: Path, network: Callable[[], _Network], match: str
) -> None:
    path = _save(tmp_path / "floods.pth", _mmseg_wrapped(_mmseg_file(V1)))
    assert match in _refusal(lambda: import_published(path, network()))


def test_published_network_lacking_a_head_is_refused(tmp_path: Path) -> None:
    state = _mmseg_file(V1)
    cut = {name: value for name, value in state.items() if not name.startswith("auxiliary_head.")}
    path = _save(tmp_path / "floods.pth", cut)
    assert "14 missing (auxiliary_head" in _refusal(lambda: import_published(path, _Network(V1)))
    plain = _save(tmp_path / "v1.pt", _v1_file(V1))
    text = _refusal(lambda: import_published(plain, _Network(V1)))
    assert "hold no fine-tuned network (first name: 'cls_token')" in text and "--model.weights" in text


# ---- damage


def _without(state: State, *names: str) -> State:
    return {name: value for name, value in state.items() if name not in names}


DAMAGED: dict[str, tuple[Callable[[State], object], str]] = {
    "a weight is missing": (lambda s: _without(s, "blocks.1.attn.qkv.bias"), "1 missing (blocks.1.attn.qkv.bias)"),
    "a block is missing": (
        lambda s: {name: value for name, value in s.items() if not name.startswith("blocks.2.")},
        "2 blocks, patch 16 px, but v1-100m has dim 48, 3 blocks",
    ),
    "a block has another number": (
        lambda s: {name.replace("blocks.2.", "blocks.7.") if name[0] == "b" else name: v for name, v in s.items()},
        "12 missing (blocks.2",
    ),
    "an unknown weight": (lambda s: s | {"blocks.0.ls1.gamma": torch.ones(48)}, "1 unexpected (blocks.0.ls1.gamma)"),
    "another shape": (lambda s: s | {"norm.bias": torch.ones(47)}, "1 of another shape (norm.bias (47,) for (48,))"),
    "NaN": (lambda s: s | {"blocks.0.norm1.weight": torch.full((48,), torch.nan)}, "blocks.0.norm1.weight holds NaN"),
    "infinity": (lambda s: s | {"cls_token": torch.full((1, 1, 48), torch.inf)}, "cls_token holds NaN or infinity"),
    "integers": (lambda s: s | {"norm.bias": torch.ones(48, dtype=torch.int8)}, "norm.bias is torch.int8"),
    "complex numbers": (lambda s: s | {"norm.bias": torch.ones(48) * 1j}, "norm.bias is torch.complex64"),
    "sparse": (lambda s: s | {"norm.bias": torch.ones(48).to_sparse()}, "norm.bias is torch.sparse_coo"),
    "three bands": (
        lambda s: s | {"patch_embed.proj.weight": torch.ones(48, 3, 1, 16, 16)},
        "patches of 3 bands, 1 dates, 16 x 16 px: must be 6 bands",
    ),
    "patches of two dates": (
        lambda s: s | {"patch_embed.proj.weight": torch.ones(48, 6, 2, 16, 16)},
        "patches of 6 bands, 2 dates",
    ),
    "filters of an image": (
        lambda s: s | {"patch_embed.proj.weight": torch.ones(48, 6, 16, 16)},
        "hold no Prithvi backbone (filters (48, 6, 16, 16))",
    ),
    "another position code": (
        lambda s: s | {"pos_embed": s["pos_embed"] + 0.001 * torch.rand(1, 589, 48)},
        "pos_embed (1, 589, 48) is not Prithvi's sine and cosine code",
    ),
    "rows and columns exchanged": (
        lambda s: s | {"pos_embed": s["pos_embed"][..., [*range(18, 36), *range(18), *range(36, 48)]]},
        "pos_embed (1, 589, 48) is not Prithvi's",
    ),
    "a code of no shape": (lambda s: s | {"pos_embed": torch.tensor(1.0)}, "pos_embed () is not Prithvi's"),
    "a code of a gigantic shape": (
        lambda s: s | {"pos_embed": torch.zeros(1).expand(1, 10**12, 48)},
        "pos_embed claims 1.8e+05 GiB, far more than the file can hold",
    ),
    "gigantic filters": (
        lambda s: s | {"patch_embed.proj.weight": torch.zeros(1).expand(10**9, 6, 1, 16, 16)},
        "patch_embed.proj.weight claims 5.7e+03 GiB, far more than the file can hold",
    ),
    "a gigantic weight": (lambda s: s | {"norm.bias": torch.zeros(1).expand(10**12)}, "norm.bias claims 3.7e+03 GiB"),
    "a gigantic block number": (lambda s: s | {f"blocks.{'9' * 5000}.x": torch.ones(1)}, "1 unexpected (blocks.999"),
    "dialects mixed": (lambda s: s | {"encoder.norm.bias": torch.ones(48)}, "hold no Prithvi backbone"),
    "a ResNet": (
        lambda s: {"conv1.weight": torch.ones(64, 3, 7, 7)},
        "hold no Prithvi backbone (first name: 'conv1.wei",
    ),
    "no tensors": (lambda s: {"state_dict": {}}, "no tensors in it"),
    "names alone": (lambda s: list(s), "holds a list, not names with tensors"),
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file_is_refused_in_one_line(tmp_path: Path, backbone: Prithvi, name: str) -> None:
    damage, match = DAMAGED[name]
    path = _save(tmp_path / "v1.pt", damage(_v1_file(V1)))
    if name == "a gigantic block number":
        with pytest.raises(WeightsError, match=r"1 unexpected \(blocks.999") as refused:
            import_backbone(path, backbone)
        assert "\n" not in str(refused.value)
    else:
        assert match in _refusal(lambda: import_backbone(path, backbone))


@pytest.mark.parametrize("make", [lambda: _v2_file(V1, tl=False), lambda: _mmseg_file(V1)], ids=["v2", "mmseg"])
def test_names_outside_of_the_prefix_are_refused(tmp_path: Path, backbone: Prithvi, make: Callable[[], State]) -> None:
    path = _save(tmp_path / "more.pt", make() | {"ema.step": torch.ones(1)})
    assert "1 unexpected (ema.step)" in _refusal(lambda: import_backbone(path, backbone))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("keep", [0, 10, 5000])
def test_cut_file_is_refused(tmp_path: Path, backbone: Prithvi, keep: int) -> None:
    path = _save(tmp_path / "v1.pt", _v1_file(V1))
    path.write_bytes(path.read_bytes()[:keep])
    assert "damaged or not a file of weights" in _refusal(lambda: import_backbone(path, backbone))
    assert "no such file" in _refusal(lambda: import_backbone(tmp_path / "none.pt", backbone))


class _Thief:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.usefixtures("unchanged")
def test_file_that_wants_to_run_code_is_refused_by_name(tmp_path: Path, backbone: Prithvi) -> None:
    mark = tmp_path / "stolen"
    for content in (_Thief(mark), {"state_dict": _v1_file(V1), "meta": _Thief(mark)}):
        path = _save(tmp_path / "v1.pt", content)
        text = _refusal(lambda path=path: import_backbone(path, backbone))  # type: ignore[misc]
        assert "mkdir, which may run code" in text
        assert not mark.exists()


def test_damaged_head_of_a_published_network_is_refused(tmp_path: Path) -> None:
    state = _mmseg_file(V1)
    state["decode_head.convs.0.bn.running_var"][3] = torch.nan
    path = _save(tmp_path / "floods.pth", state)
    for read in (import_published, import_weights):
        assert "running_var holds NaN" in _refusal(lambda read=read: read(path, _Network(V1)))  # type: ignore[misc]
    unknown = _save(tmp_path / "more.pth", _mmseg_file(V1) | {"ema.step": torch.ones(1)})
    for read in (import_published, import_weights):
        assert "1 unexpected (ema.step)" in _refusal(lambda read=read: read(unknown, _Network(V1)))  # type: ignore[misc]
