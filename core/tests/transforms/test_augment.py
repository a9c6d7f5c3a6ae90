import pytest
import torch

from geocore.raster.bands import Bands
from geocore.transforms.augment import Bias, CounterRNG, Flip, Gain, Noise, Rot90, compose

torch.set_num_threads(1)

EVERYTHING = [Flip(), Rot90(), Gain(0.8, 1.2), Bias(0.1), Noise(0.05)]


def _keys(count, epoch=3, first=0):
    return torch.stack([torch.full((count,), epoch), torch.arange(first, first + count)], dim=1)


def _batch(count=8, size=12, epoch=3, first=0):
    """A batch that is a pure function of its keys, with layers at two resolutions."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(64, 3, size, size, generator=generator)
    valid = torch.rand(64, 1, size, size, generator=generator) < 0.8
    coarse = torch.randn(64, 2, size // 3, size // 3, generator=generator)
    part = slice(first, first + count)
    return {
        "inputs": {"image": torch.where(valid, image, 0)[part], "coarse": coarse[part]},
        "valid": {"image": valid[part]},
        "targets": {"label": (image[:, 0] > 0).to(torch.uint8)[part], "scene_class": torch.arange(64)[part]},
        "keys": _keys(count, epoch, first),
    }


def _equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, dict):
            _equal(value, second[name])
        else:
            assert torch.equal(value, second[name]), name


def _part(batch, rows):
    return {name: _part(value, rows) if isinstance(value, dict) else value[rows] for name, value in batch.items()}


def test_a_sample_is_changed_alike_wherever_it_lies():
    augment = compose(EVERYTHING, seed=5)
    whole = augment(_batch(8))
    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    _equal(augment(_part(_batch(8), order)), _part(whole, order))
    for single in range(8):
        _equal(augment(_batch(1, first=single)), _part(whole, slice(single, single + 1)))
    # Two processes, each with a contiguous half of the batch.
    for half in (0, 4):
        _equal(augment(_batch(4, first=half)), _part(whole, slice(half, half + 4)))
    _equal(augment(_batch(8)), whole)


@pytest.mark.parametrize("change", ["seed", "epoch", "index"])
def test_seed_epoch_and_index_all_matter(change):
    batch = _batch(8)
    first = compose(EVERYTHING, seed=5)(batch)["inputs"]["image"]
    if change != "seed":
        batch["keys"] = batch["keys"] + (torch.tensor([1, 0]) if change == "epoch" else torch.tensor([0, 8]))
    second = compose(EVERYTHING, seed=6 if change == "seed" else 5)(batch)["inputs"]["image"]
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_given_batch_is_not_changed():
    batch = _batch(8)
    batch["inputs"]["wind"] = torch.randn(8, 2, 4, 4)
    bands = {"wind": Bands(Bands.named("u", "v").bands, (("u", "v"),))}
    before = {name: x.clone() for name, x in batch["inputs"].items()}
    compose(EVERYTHING, seed=0, bands=bands)(batch)
    _equal(batch["inputs"], before)


def _symmetries(x):
    turns = [x.rot90(k, (-2, -1)) for k in range(4)]
    return turns + [turn.flip(-1) for turn in turns]


def test_flips_and_turns_reach_all_symmetries_and_share_one_geometry():
    size = 6
    values = torch.arange(size * size).view(1, 1, size, size).repeat(64, 1, 1, 1)
    batch = {
        "inputs": {"image": {"values": values.to(torch.uint16), "valid": values % 5 > 0}},
        "targets": {"label": values[:, 0].to(torch.uint8), "depth": values.float()},
        "keys": _keys(64),
    }
    moved = compose([Flip(), Rot90()], seed=1)(batch)
    image = moved["inputs"]["image"]["values"].long()
    symmetries = _symmetries(values[0, 0])
    found = {next(i for i, s in enumerate(symmetries) if torch.equal(x[0], s)) for x in image}
    assert found == set(range(8))
    assert torch.equal(moved["targets"]["label"].long(), image[:, 0])
    assert torch.equal(moved["targets"]["depth"].long(), image)
    assert torch.equal(moved["inputs"]["image"]["valid"], image % 5 > 0)


def test_a_coarse_layer_stays_on_its_place():
    batch = _batch(16)
    fine = batch["inputs"]["coarse"].repeat_interleave(3, -1).repeat_interleave(3, -2)
    batch["inputs"]["image"] = fine
    moved = compose([Flip(), Rot90()], seed=2)(batch)["inputs"]
    assert torch.equal(moved["coarse"].repeat_interleave(3, -1).repeat_interleave(3, -2), moved["image"])


def test_probabilities_are_kept():
    x = torch.zeros(4000, 1, 1, 2)
    x[..., 1] = 1
    batch = {"inputs": {"image": x}, "targets": {}, "keys": _keys(4000)}
    flipped = compose([Flip(horizontal=0.3, vertical=0.0)], seed=0)(batch)["inputs"]["image"][:, 0, 0, 0]
    assert flipped.mean().item() == pytest.approx(0.3, abs=0.03)
    never = compose([Flip(horizontal=0.0, vertical=0.0)], seed=0)(batch)["inputs"]["image"]
    always = compose([Flip(horizontal=1.0, vertical=0.0)], seed=0)(batch)["inputs"]["image"]
    assert torch.equal(never, x) and torch.equal(always, x.flip(-1))


@pytest.mark.parametrize("dates", [1, 3])
def test_vectors_turn_with_the_image(dates):
    # A wind that blows away from the centre looks the same after every symmetry, if its components turn too.
    line = torch.arange(7) - 3.0
    east, north = line.expand(7, 7), -line[:, None].expand(7, 7)
    wind = torch.stack([east, torch.full((7, 7), 9.0), north]).repeat(dates, 1, 1).expand(64, -1, -1, -1)
    bands = {"wind": Bands(Bands.named("u", "t", "v").bands, vector_pairs=(("u", "v"),))}
    batch = {"inputs": {"wind": wind}, "targets": {}, "keys": _keys(64)}
    for augmentations in ([Flip()], [Rot90()], EVERYTHING[:2]):
        assert torch.equal(compose(augmentations, seed=3, bands=bands)(batch)["inputs"]["wind"], wind)
        assert not torch.equal(compose(augmentations, seed=3)(batch)["inputs"]["wind"], wind)
    swirl = torch.stack([-north, torch.full((7, 7), 9.0), east]).repeat(dates, 1, 1).expand(64, -1, -1, -1)
    batch["inputs"]["wind"] = swirl
    turned = compose([Rot90()], seed=3, bands=bands)(batch)["inputs"]["wind"]
    mirrored = compose([Flip(1.0, 0.0)], seed=3, bands=bands)(batch)["inputs"]["wind"]
    assert torch.equal(turned, swirl)
    assert torch.equal(mirrored[:, ::3], -swirl[:, ::3]) and torch.equal(mirrored[:, 1::3], swirl[:, 1::3])


def test_integer_vectors_are_refused():
    bands = {"wind": Bands(Bands.named("u", "v").bands, vector_pairs=(("u", "v"),))}
    batch = {"inputs": {"wind": torch.zeros(1, 2, 4, 4, dtype=torch.int16)}, "targets": {}, "keys": _keys(1)}
    with pytest.raises(ValueError, match="preprocess before augmenting"):
        compose([Flip()], seed=0, bands=bands)(batch)


def test_boxes_follow_their_masks():
    size, ragged = 10, []
    generator = torch.Generator().manual_seed(0)
    for sample in range(32):
        masks = torch.zeros(sample % 3, size, size, dtype=torch.bool)
        boxes = torch.zeros(sample % 3, 4)
        for i in range(len(masks)):
            top, left = torch.randint(0, 6, (2,), generator=generator).tolist()
            masks[i, top : top + 2, left : left + 4] = True
            boxes[i] = torch.tensor([left, top, left + 4, top + 2])
        ragged.append({"masks": masks, "boxes": boxes, "labels": torch.arange(len(masks)), "name": str(sample)})
    batch = {"inputs": {"image": torch.zeros(32, 1, size, size)}, "targets": {"objects": ragged}, "keys": _keys(32)}
    moved = compose([Flip(), Rot90()], seed=4)(batch)["targets"]["objects"]
    changed = 0
    for before, after in zip(ragged, moved, strict=True):
        assert after["name"] == before["name"] and torch.equal(after["labels"], before["labels"])
        for mask, box, old in zip(after["masks"], after["boxes"], before["boxes"], strict=True):
            rows, cols = mask.any(1).nonzero(), mask.any(0).nonzero()
            assert box.tolist() == [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
            changed += int(not torch.equal(box, old))
    assert changed > 10


def test_quarter_turns_of_oblong_images_are_refused():
    batch = {"inputs": {"image": torch.zeros(16, 1, 4, 6)}, "targets": {}, "keys": _keys(16)}
    compose([Flip()], seed=0)(batch)
    with pytest.raises(ValueError, match="quarter turns need square images"):
        compose([Rot90()], seed=0)(batch)


@pytest.mark.parametrize("augmentation", [Gain(0.5, 0.9), Bias(0.2), Noise(0.1)])
@pytest.mark.parametrize("nested", [False, True])
def test_invalid_pixels_keep_their_fill(augmentation, nested):
    batch = _batch(8)
    image, valid = batch["inputs"]["image"], batch["valid"]["image"]
    if nested:
        batch = {**batch, "inputs": {"image": {"values": image, "valid": valid}}}
        del batch["valid"]
    changed = compose([augmentation], seed=0)(batch)["inputs"]["image"]
    changed = changed["values"] if nested else changed
    mask = valid.expand_as(image)
    assert torch.equal(changed[~mask], image[~mask])
    assert (changed[mask] != image[mask]).float().mean() > 0.99


def test_gain_and_bias_are_one_number_a_sample_within_their_range():
    batch = {"inputs": {"image": torch.rand(500, 2, 3, 3) + 1}, "targets": {}, "keys": _keys(500)}
    x = batch["inputs"]["image"]
    gain = (compose([Gain(0.5, 2.0)], seed=0)(batch)["inputs"]["image"] / x).flatten(1)
    bias = (compose([Bias(2.0)], seed=0)(batch)["inputs"]["image"] - x).flatten(1)
    for drawn, low, high in ((gain, 0.5, 2.0), (bias, -2.0, 2.0)):
        assert (drawn - drawn[:, :1]).abs().max() < 1e-5
        assert drawn.min() >= low - 1e-5 and drawn.max() <= high + 1e-5
        assert drawn.mean().item() == pytest.approx((low + high) / 2, abs=0.06 * (high - low))


def test_only_named_layers_and_floats_are_toned():
    batch = _batch(4)
    changed = compose([Gain(0.5, 0.6, layers=("coarse",))], seed=0)(batch)["inputs"]
    assert torch.equal(changed["image"], batch["inputs"]["image"])
    assert not torch.equal(changed["coarse"], batch["inputs"]["coarse"])
    batch["inputs"]["counts"] = torch.ones(4, 1, 2, 2, dtype=torch.uint16)
    assert compose([Gain(0.5, 0.6)], seed=0)(batch)["inputs"]["counts"] is batch["inputs"]["counts"]
    for layer, text in (("counts", "preprocess before augmenting"), ("dem", "no layer dem in the batch")):
        with pytest.raises(ValueError, match=text):
            compose([Gain(0.5, 0.6, layers=(layer,))], seed=0)(batch)


def test_noise_is_normal_and_independent():
    zeros = torch.zeros(4, 3, 65, 63)
    batch = {"inputs": {"a": zeros, "b": zeros}, "targets": {}, "keys": _keys(4)}
    noisy = compose([Noise(2.0), Noise(0.0)], seed=0)(batch)["inputs"]
    rows = torch.stack([noisy["a"], noisy["b"]]).flatten(0, 2).flatten(1)  # a row for every layer, sample and band
    assert rows.std().item() == pytest.approx(2.0, rel=0.01)
    assert rows.mean().item() == pytest.approx(0.0, abs=0.03)
    assert (rows / 2).pow(4).mean().item() == pytest.approx(3.0, rel=0.05)
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 0.08  # 1 / sqrt(4095) is 0.016
    lagged = torch.stack([rows[:, 1:].flatten(), rows[:, :-1].flatten()])
    assert abs(torch.corrcoef(lagged)[0, 1]) < 0.02


def test_draws_are_uniform_and_independent():
    keys = torch.cat([_keys(2000, epoch) for epoch in range(5)])
    draws = [CounterRNG.of(keys, 0, position).uniform(number) for position in range(3) for number in range(3)]
    draws.append(CounterRNG.of(keys, 1, 0).uniform(0))
    rows = torch.stack(draws)
    assert rows.min() >= 0 and rows.max() < 1
    assert (torch.corrcoef(rows) - torch.eye(len(rows))).abs().max() < 0.05
    for row in rows:
        counts = torch.histc(row, 20, 0, 1)
        assert ((counts - 500).square() / 500).sum() < 50  # chi square of 19 degrees of freedom: 43.8 at 0.1 %
        assert row.unique().numel() > 9900


def test_hashes_equal_splitmix64():
    def mixed(z):
        z = (z + 0x9E3779B97F4A7C15) % 2**64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    for seed, position, epoch, index in ((0, 0, 0, 0), (42, 3, 7, 123456), (2**32 - 1, 1, 10**6, 2**40)):
        state = mixed(mixed(mixed(mixed(seed) + position) + epoch) + index)
        draws = CounterRNG.of(torch.tensor([[epoch, index]]), seed, position)
        assert draws.state.item() % 2**64 == state
        assert draws.uniform(2).item() == ((mixed(mixed(state) + 2) >> 40) & 0xFFFFFF) / 2**24
