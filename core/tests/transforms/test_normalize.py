import json
import math

import numpy as np
import pytest
import torch

from geocore.datasets.statistics import BandStatistics, Statistics
from geocore.errors import CheckpointError, DataError, SettingsError
from geocore.raster.bands import Band, Bands
from geocore.transforms.normalize import Normalize

torch.set_num_threads(1)


def _statistics(values):
    """Statistics of the bands of an array of shape (band, ...)."""
    return tuple(
        BandStatistics(
            count=band.size,
            minimum=float(band.min()),
            maximum=float(band.max()),
            mean=float(band.mean()),
            std=float(band.std()),
            percentiles={p: float(np.percentile(band, p)) for p in (1.0, 50.0, 99.0)},
        )
        for band in values.reshape(len(values), -1).astype(np.float64)
    )


def _batch(values, valid=None):
    values = torch.from_numpy(values)
    return {"image": {"values": values, "valid": torch.ones_like(values, dtype=torch.bool) if valid is None else valid}}


def _random(shape, dtype=np.float32, low=0, high=1000, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


IMAGE = _random((2, 3, 16, 16))
BANDS = {"image": Bands.named("B02", "B03", "B04")}
STATISTICS = Statistics({"image": _statistics(IMAGE.swapaxes(0, 1))})


@pytest.mark.parametrize("mode", ["dataset", "tile"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_every_stored_type_comes_out_with_mean_0_and_std_1(mode, dtype):
    image = _random((2, 3, 16, 16), dtype, high=250)
    module = Normalize(Statistics({"image": _statistics(image.swapaxes(0, 1))}), BANDS, mode=mode)
    x = module(_batch(image))["image"]
    assert x.dtype == torch.float32 and x.shape == (2, 3, 16, 16)
    axes = (0, 2, 3) if mode == "dataset" else (2, 3)
    torch.testing.assert_close(x.mean(axes), torch.zeros_like(x.mean(axes)), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(axes, correction=0), torch.ones_like(x.mean(axes)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["dataset", "tile"])
def test_uint16_above_the_range_of_int16_keeps_its_contrast(mode):
    image = _random((1, 1, 64, 64), np.uint16, 41343, 65472)
    module = Normalize(Statistics({"image": _statistics(image[0])}), {"image": Bands.named("VV")}, mode=mode)
    x = module(_batch(image))["image"]
    assert x.std().item() == pytest.approx(1, abs=1e-3)
    order = x.flatten().argsort(stable=True).numpy()
    np.testing.assert_array_equal(order, image.flatten().argsort(stable=True))


@pytest.mark.parametrize("mode", ["dataset", "tile"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 3e38, -9999.0])
@pytest.mark.parametrize("clip", [None, (1.0, 99.0)])
@pytest.mark.parametrize("mask_bands", [1, 3])
def test_invalid_pixels_never_leak(mode, poison, clip, mask_bands):
    valid = torch.from_numpy(_random((2, mask_bands, 16, 16), high=4) > 0)
    valid[1, 0] = False
    dirty = np.where(valid.expand(2, 3, 16, 16).numpy(), IMAGE, np.float32(poison))
    module = Normalize(STATISTICS, BANDS, mode=mode, clip=clip)
    clean_batch, dirty_batch = _batch(IMAGE, valid), _batch(dirty, valid)
    dirty_batch["image"]["values"].requires_grad_()
    x = module(dirty_batch)["image"]
    assert torch.equal(x, module(clean_batch)["image"])
    assert (x[~valid.expand_as(x)] == 0).all()
    assert torch.isfinite(x).all()
    x.square().sum().backward()
    assert torch.isfinite(dirty_batch["image"]["values"].grad).all()


def _of_two(clip=None):
    """A model that was trained on B04 and B02 alone."""
    measured = STATISTICS.layers["image"]
    statistics = Statistics({"image": (measured[2], measured[0])})
    return Normalize(statistics, {"image": Bands.named("B04", "B02")}, clip=clip)


def test_bands_are_selected_by_name_in_the_models_order():
    module = Normalize.from_card(_of_two().card(), BANDS)
    everything = Normalize(STATISTICS, BANDS)(_batch(IMAGE))["image"]
    valid = torch.from_numpy(_random((2, 3, 16, 16), high=4) > 0)
    assert torch.equal(module(_batch(IMAGE))["image"], everything[:, [2, 0]])
    batch = _batch(IMAGE, valid)
    assert torch.equal(module.masks(batch)["image"], valid[:, [2, 0]])
    assert torch.equal(module(batch)["image"], torch.where(valid, everything, 0)[:, [2, 0]])
    assert module.channels("image") == 2
    high = (IMAGE + 60000).astype(np.uint16)
    assert torch.equal(module(_batch(high))["image"], module(_batch(high.astype(np.float32)))["image"])


def test_a_card_survives_json_and_finds_bands_in_another_order():
    module = _of_two(clip=(1.0, 99.0))
    card = json.loads(json.dumps(module.card()))
    stored = {"image": Bands.named("B02", "QA", "B03", "B04")}
    again = Normalize.from_card(card, stored)
    reordered = np.stack([IMAGE[:, 0], np.full_like(IMAGE[:, 0], -1), IMAGE[:, 1], IMAGE[:, 2]], axis=1)
    assert torch.equal(again(_batch(reordered))["image"], module(_batch(IMAGE[:, [2, 0]]))["image"])
    assert again.card() == card
    with pytest.raises(DataError, match="B04"):
        Normalize.from_card(card, {"image": Bands.named("B02")})
    with pytest.raises(DataError, match="layer image is what the model takes"):
        Normalize.from_card(card, {"photo": stored["image"]})
    for broken in ({}, {"mode": "dataset", "layers": {"image": {"bands": ["B02"]}}}):
        with pytest.raises(CheckpointError, match="does not describe the normalization"):
            Normalize.from_card(broken, stored)


def test_figures_travel_in_the_state_dict():
    module = Normalize(STATISTICS, BANDS, clip=(1.0, 99.0))
    other = Normalize(Statistics({"image": _statistics(_random((3, 50), high=9))}), BANDS, clip=(1.0, 99.0))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(_batch(IMAGE))["image"], module(_batch(IMAGE))["image"])
    assert not list(module.parameters())


def test_clipping_cuts_at_the_percentiles():
    x = Normalize(STATISTICS, BANDS, clip=(1.0, 99.0))(_batch(IMAGE))["image"]
    for band, figure in enumerate(STATISTICS.layers["image"]):
        limits = [(figure.percentiles[p] - figure.mean) / figure.std for p in (1.0, 99.0)]
        assert [x[:, band].min().item(), x[:, band].max().item()] == pytest.approx(limits, abs=1e-5)
    with pytest.raises(SettingsError, match="clip percentile 3 was not measured: choose from 1, 50, 99"):
        Normalize(STATISTICS, BANDS, clip=(3.0, 99.0))
    with pytest.raises(SettingsError, match="the first percentile must be the lower one"):
        Normalize(STATISTICS, BANDS, clip=(99.0, 1.0))


@pytest.mark.parametrize("mode", ["dataset", "tile"])
@pytest.mark.parametrize("value", [0.0, 53000.7, 1e-20])
def test_a_single_valued_tile_becomes_zeros(mode, value):
    image = np.full((1, 3, 16, 16), value, np.float32)
    statistics = Statistics({"image": _statistics(image[0])})
    x = Normalize(statistics, BANDS, mode=mode)(_batch(image))["image"]
    # float32 figures of a constant band differ from it by their rounding at most.
    assert x.abs().max().item() <= (0 if mode == "tile" else np.spacing(np.float32(value)))


def test_a_tile_without_valid_pixel_becomes_zeros():
    x = Normalize(STATISTICS, BANDS, mode="tile")(_batch(IMAGE, torch.zeros(2, 1, 16, 16, dtype=torch.bool)))
    assert torch.equal(x["image"], torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize("mode", ["dataset", "tile"])
def test_dates_become_channels_with_all_bands_of_a_date_together(mode):
    series = _random((2, 4, 3, 8, 8))
    valid = torch.from_numpy(_random((2, 4, 1, 8, 8), high=4) > 0)
    module = Normalize(STATISTICS, BANDS, mode=mode)
    x = module(_batch(series, valid))["image"]
    assert x.shape == (2, 12, 8, 8)
    assert module.masks(_batch(series, valid))["image"].shape == x.shape
    if mode == "dataset":
        for date in range(4):
            single = module(_batch(series[:, date], valid[:, date]))["image"]
            assert torch.equal(x[:, 3 * date : 3 * date + 3], single)
    else:
        band = x.unflatten(1, (4, 3))[0, :, 1][valid[0, :, 0]]
        assert band.mean().item() == pytest.approx(0, abs=1e-5)
        assert band.std(correction=0).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mode", ["dataset", "tile"])
def test_a_vector_pair_keeps_its_zero_and_its_direction(mode):
    wind = np.random.default_rng(0).normal([[[3.0]], [[-8.0]]], [[[2.0]], [[5.0]]], (1, 2, 20, 20)).astype(np.float32)
    physical = {"wind": Bands.named("u", "v")}
    # The same wind as packed integers: stored = (physical - offset) / scale.
    packed_bands = {"wind": Bands((Band("u", scale=0.5, offset=-100.0), Band("v", scale=0.25, offset=-50.0)))}
    packed = (wind - np.float32([[[-100]], [[-50]]])) / np.float32([[[0.5]], [[0.25]]])
    results = []
    for bands, values in ((physical, wind), (packed_bands, packed)):
        paired = {"wind": Bands(bands["wind"].bands, vector_pairs=(("u", "v"),))}
        module = Normalize(Statistics({"wind": _statistics(values[0])}), paired, mode=mode, clip=(1.0, 99.0))
        values = torch.from_numpy(values)
        results.append(module({"wind": {"values": values, "valid": torch.ones_like(values, dtype=torch.bool)}})["wind"])
    scale = math.sqrt((wind.astype(np.float64) ** 2).mean())
    torch.testing.assert_close(results[0], torch.from_numpy(wind) / scale, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


def test_statistics_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="layer dem has no statistics"):
        Normalize(STATISTICS, {"dem": Bands.named("z")})
    with pytest.raises(DataError, match="has 1 bands, its statistics 3"):
        Normalize(STATISTICS, {"image": Bands.named("B02")})
    empty = BandStatistics(0, math.nan, math.nan, math.nan, math.nan, {})
    with pytest.raises(DataError, match="band z of layer dem has no valid pixel"):
        Normalize(Statistics({"dem": (empty,)}), {"dem": Bands.named("z")})


def test_an_array_with_other_bands_is_a_bug():
    with pytest.raises(ValueError, match="must have 3 bands on axis -3"):
        Normalize(STATISTICS, BANDS)(_batch(IMAGE[:, :2]))


def test_layer_names_may_be_anything():
    names = ["a.b", "values", "training"]
    statistics = Statistics(dict.fromkeys(names, STATISTICS.layers["image"]))
    module = Normalize(statistics, dict.fromkeys(names, BANDS["image"]))
    assert list(module({name: _batch(IMAGE)["image"] for name in names})) == names
