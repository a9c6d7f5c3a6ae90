"""Scenes and charts as their files have them: both forms, masks, geometry, laziness, and files that are none."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import h5netcdf
import numpy as np
import pytest

from geocore.errors import DataError, SceneError, SettingsError
from geocore.raster.grid import Window
from seaice_multitask.channels import COARSE_STANDARD, RADAR, SAR_STANDARD, bands_of
from seaice_multitask.charts import MASKED
from seaice_multitask.labels import has_charts, read_charts
from seaice_multitask.sample import file_format, write_raw_sample, write_sample
from seaice_multitask.scenes import COARSE, SAR, open_scene, packed_variables

# Neither is a multiple of 25, and the coarse file grid leaves the rest out.
SHAPE = (120, 135)
READY, RAW = (
    "20200102T030405_dmi_prep.nc",
    "S1A_EW_GRDM_1SDH_20200102T030405_20200102T030505_020301_022AA4_1F75_icechart_dmi_x.nc",
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """The same two scenes in both forms."""
    folder = tmp_path_factory.mktemp("scenes")
    write_sample(folder / "ready", scenes=2, shape=SHAPE, seed=1)
    write_raw_sample(folder / "raw", scenes=2, shape=SHAPE, seed=1)
    by_time = {path.name[17:32]: path for path in (folder / "raw").iterdir()}
    ready = sorted((folder / "ready").iterdir())
    return ready, [by_time[path.name[:15]] for path in ready]


def _write(path: Path, planes: dict[str, np.ndarray], attributes: dict[str, dict[str, object]] | None = None) -> Path:
    """Write a small file; variables of one shape share their dimensions."""
    with h5netcdf.File(path, "w") as file:
        for name, values in planes.items():
            dimensions = tuple(f"n{length}" for length in values.shape)
            missing = {key: n for key, n in zip(dimensions, values.shape, strict=True) if key not in file.dimensions}
            file.dimensions.update(missing)
            variable = file.create_variable(name, dimensions, data=values)
            for key, value in (attributes or {}).get(name, {}).items():
                variable.attrs[key] = value
    return path


def _ready(shape: tuple[int, int] = (53, 76), names: tuple[str, ...] = tuple(SAR_STANDARD)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = (shape[0] // 25, shape[1] // 25)
    planes = {name: rng.standard_normal(shape).astype(np.float32) for name in names}
    planes |= {name: rng.standard_normal(coarse).astype(np.float32) for name in COARSE_STANDARD}
    latitude, longitude = np.meshgrid(np.linspace(70, 75, 21), np.linspace(-60, -40, 21), indexing="ij")
    planes |= {"sar_grid2d_latitude": latitude, "sar_grid2d_longitude": longitude}
    return planes


def _raw(shape: tuple[int, int] = (100, 150)) -> dict[str, np.ndarray]:
    """`shape` counts 40 m pixels."""
    rng = np.random.default_rng(0)
    coarse = (shape[0] // 50, shape[1] // 50)
    planes = {name: rng.normal(-15, 5, shape).astype(np.float32) for name in RADAR}
    planes |= {"distance_map": rng.integers(0, 42, shape).astype(np.float32)}
    planes |= {name: rng.normal(200, 9, coarse) for name in COARSE_STANDARD}
    lines, samples = (np.rint(np.linspace(0, n - 1, 21)).astype(np.int32) for n in shape)
    points = np.meshgrid(lines, samples, indexing="ij")
    angles = 20 + points[1] / shape[1] * 25 + points[0] / shape[0]
    vectors = {"line": points[0], "sample": points[1], "incidenceangle": angles}
    vectors |= {"latitude": 70 + points[0] / 100, "longitude": -60 + points[1] / 100}
    return planes | {f"sar_grid_{name}": values.ravel() for name, values in vectors.items()}


def test_raw_files_give_what_ready_to_train_files_hold(both: tuple[list[Path], list[Path]]) -> None:
    for ready, raw in zip(*both, strict=True):
        with open_scene(ready) as first, open_scene(raw) as second:
            assert first.name == second.name == ready.name[:19]
            assert first.grid.shape == second.grid.shape == SHAPE
            assert first.layers == second.layers
            window = Window(0, 0, 125, 150)
            for name, patch in first.read_layers(window).items():
                other = second.read_layers(window)[name]
                if name == SAR:
                    np.testing.assert_array_equal(patch.valid, other.valid)
                    # One rounding of float32 at values up to 8: the writer takes its means in another order.
                    tolerance = 1e-6
                else:
                    # Ready-to-train files have no mask on the 2 km grid, but 0 for what is missing.
                    assert (patch.valid >= other.valid).all()
                    tolerance = 0
                values, others = (np.where(p.valid, p.values, 0) for p in (patch, other))
                np.testing.assert_allclose(values, others, rtol=0, atol=tolerance)
        assert has_charts(ready) and has_charts(raw)
        charts = read_charts(raw)
        for name, chart in read_charts(ready).items():
            np.testing.assert_array_equal(chart, charts[name])
            assert len(np.unique(chart)) > 2


def test_layers_are_named_and_ordered_and_lead_back_to_physical_values(both: tuple[list[Path], list[Path]]) -> None:
    with open_scene(both[0][0]) as scene:
        assert scene.layers[SAR].bands.names == tuple(SAR_STANDARD)
        assert scene.layers[SAR].ratio == 1 and scene.layers[COARSE].ratio == 25
        assert scene.layers[COARSE].bands.names == tuple(COARSE_STANDARD)
        assert scene.layers[COARSE].bands.vector_pairs == (("u10m_rotated", "v10m_rotated"),)
        temperature = scene.layers[COARSE].bands["t2m"]
        assert (temperature.unit, temperature.offset) == ("K", COARSE_STANDARD["t2m"].mean)


def test_the_standard_is_that_of_the_sample() -> None:
    """Both were taken from the published statistics."""
    mine = {name: (each.mean, each.std) for name, each in {**SAR_STANDARD, **COARSE_STANDARD}.items()}
    assert mine == dict(file_format.STANDARD)


def test_fills_are_invalid_before_anything_is_computed(tmp_path: Path) -> None:
    """Defect D1: a mask that becomes the value 255."""
    planes = _ready()
    planes["nersc_sar_primary"][3, 4] = 0
    planes["nersc_sar_secondary"][5, 6] = np.nan
    planes["distance_map"][7, 8] = 0
    planes["t2m"][1, 2] = np.nan
    fill = {"variable_fill_value": np.int64(0)}
    attributes = dict.fromkeys(("nersc_sar_primary", "nersc_sar_secondary", "sar_incidenceangle"), fill)
    with open_scene(_write(tmp_path / READY, planes, attributes)) as scene:
        patches = scene.read_layers(Window(0, 0, 75, 100))
    sar = patches[SAR]
    # Distances have no fill value: their 0 is a number.
    assert np.argwhere(~sar.valid[:, :53, :76]).tolist() == [[0, 3, 4], [1, 5, 6]]
    index = list(COARSE_STANDARD).index("t2m")
    # The third line and the fourth sample repeat their neighbours, masks too.
    gap = np.argwhere(~patches[COARSE].valid).tolist()
    assert gap == [[index, 1, 2], [index, 1, 3], [index, 2, 2], [index, 2, 3]]
    assert not (sar.values[sar.valid] == 255).any()


def test_the_incomplete_coarse_pixel_repeats_its_neighbour(tmp_path: Path) -> None:
    planes = _ready()
    with open_scene(_write(tmp_path / READY, planes)) as scene:
        whole = scene.read_layers(Window(0, 0, 75, 100), [COARSE])[COARSE].values[0]
        corner = scene.read_layers(Window(50, 75, 25, 25), [COARSE])[COARSE].values[0]
    np.testing.assert_array_equal(whole[:2, :3], planes["btemp_6_9h"])
    np.testing.assert_array_equal(whole, np.pad(planes["btemp_6_9h"], ((0, 1), (0, 1)), mode="edge"))
    np.testing.assert_array_equal(corner, planes["btemp_6_9h"][-1:, -1:])


def test_raw_means_take_the_valid_pixels(tmp_path: Path) -> None:
    planes = _raw()
    hh = planes["nersc_sar_primary"]
    hh[10:12, 20:22] = [[-10, np.nan], [np.nan, -20]]
    hh[30:32, 40:42] = np.nan
    with open_scene(_write(tmp_path / RAW, planes)) as scene:
        patch = scene.read_layers(Window(0, 0, 50, 75), [SAR])[SAR]
        bands = scene.layers[SAR].bands
    physical = patch.values[0] * bands[RADAR[0]].scale + bands[RADAR[0]].offset
    # Two roundings of float32 at values of up to 40 dB.
    assert abs(physical[5, 10] + 15) < 1e-5
    assert abs(physical[0, 0] - hh[:2, :2].mean()) < 1e-5
    # The incidence angle is known where there is a signal, the other polarisation has its own mask.
    assert patch.valid[:, 15, 20].tolist() == [False, True, False, True]
    assert patch.valid[:, 5, 10].all()


def test_incidence_of_raw_files_is_bilinear_between_control_points(tmp_path: Path) -> None:
    planes = _raw()
    with open_scene(_write(tmp_path / RAW, planes)) as scene:
        band = scene.layers[SAR].bands["sar_incidenceangle"]
        found = scene.read_layers(Window(7, 9, 30, 40), [SAR])[SAR].values[2] * band.scale + band.offset
    # The angles are a plane over lines and samples; a pixel's middle lies half a 40 m pixel behind its first.
    lines, samples = (2 * (start + np.arange(n)) + 0.5 for start, n in ((7, 30), (9, 40)))
    expected = 20 + samples[None] / 150 * 25 + lines[:, None] / 100
    # float32 at 45 degrees is good to 4e-6.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_control_points_lie_in_the_middle_of_their_pixels(tmp_path: Path) -> None:
    with open_scene(_write(tmp_path / READY, _ready())) as scene:
        points, crs = scene.grid.gcps, scene.grid.crs
    assert len(points) == 441 and crs == "EPSG:4326"
    assert (points[0].row, points[0].col, points[0].x, points[0].y) == (0.5, 0.5, -60, 70)
    assert (points[1].row, points[1].col, points[1].x, points[1].y) == (0.5, 0.5 + 75 / 20, -59, 70)
    assert (points[-1].row, points[-1].col, points[-1].x, points[-1].y) == (52.5, 75.5, -40, 75)
    with open_scene(_write(tmp_path / RAW, _raw())) as scene:
        points = scene.grid.gcps
    assert (points[0].row, points[-1].row, points[-1].col) == (0.25, 49.75, 74.75)
    assert (points[-1].x, points[-1].y) == (-60 + 149 / 100, 70 + 99 / 100)


def test_an_odd_raw_line_is_left_out(tmp_path: Path) -> None:
    with open_scene(_write(tmp_path / RAW, _raw((101, 151)))) as scene:
        assert scene.grid.shape == (50, 75)
        assert scene.read_layers(Window(0, 0, 50, 75))[SAR].values.shape == (4, 50, 75)


def test_only_what_is_asked_for_is_needed(tmp_path: Path) -> None:
    planes = _ready()
    del planes["btemp_6_9h"], planes["distance_map"]
    path = _write(tmp_path / READY, planes)
    with pytest.raises(SceneError, match="lacks distance_map, btemp_6_9h: ") as error:
        open_scene(path)
    assert "\n" not in str(error.value)
    with open_scene(path, ["t2m", "month"]) as scene:
        # The radar's two are always there: they say where there is a scene.
        assert {name: layer.bands.names for name, layer in scene.layers.items()} == {SAR: RADAR, COARSE: ("t2m",)}
    with open_scene(path, ["latitude"]) as scene:
        assert list(scene.layers) == [SAR]


def test_opening_reads_no_plane_and_a_window_only_its_part(tmp_path: Path) -> None:
    """Defect D18: whole scenes in memory."""
    path = tmp_path / READY
    _write(path, _ready((2500, 2500), ()))
    with h5netcdf.File(path, "a") as file:
        file.dimensions["line"], file.dimensions["sample"] = 2500, 2500
        for name in SAR_STANDARD:
            # Never written, so that the file stays small: 25 MB each once they are read.
            file.create_variable(name, ("line", "sample"), "f4", chunks=(256, 256), fillvalue=1.0)
    open_scene(path).close()
    tracemalloc.start()
    with open_scene(path) as scene:
        opened = tracemalloc.get_traced_memory()[1]
        scene.read_layers(Window(1000, 1000, 250, 250))
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Names and 441 points take 0.5 MB; the window of 24 planes 1.1 MB, held a few times.
    assert opened < 2e6 and peak < 6e6


@pytest.mark.parametrize(
    "change, rule",
    [
        (lambda planes: planes.update(t2m=np.zeros((7, 9))), "'t2m' is 7 x 9"),
        (lambda planes: planes.update({n: np.zeros((9, 9), "f4") for n in COARSE_STANDARD}), "2 km grid has 9 x 9"),
        (lambda planes: planes.update(distance_map=np.zeros((53, 77), "f4")), "'distance_map' is 53 x 77"),
        (lambda planes: planes.update(sar_grid2d_latitude=np.zeros((21, 20))), "no square grid"),
        (lambda planes: planes.update(sar_grid2d_latitude=np.full((21, 21), np.nan)), "not a number"),
        (lambda planes: planes.update(sar_grid2d_latitude=np.zeros(441)), "must have two axes"),
        (lambda planes: planes.pop("sar_grid2d_longitude"), "no variable 'sar_grid2d_longitude'"),
        (lambda planes: planes.update({n: np.zeros((5, 5), "f4") for n in RADAR}), "must be lines x samples"),
        (lambda planes: planes.pop("sar_grid2d_latitude"), "is no AI4Arctic scene"),
        (lambda planes: planes.pop("nersc_sar_primary"), "lacks nersc_sar_primary"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, change, rule: str) -> None:
    planes = _ready()
    change(planes)
    path = _write(tmp_path / READY, planes)
    with pytest.raises(SceneError, match=rule) as error:
        open_scene(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("stated", ["none", np.arange(3.0)])
def test_a_fill_value_that_is_no_number_is_refused(tmp_path: Path, stated: object) -> None:
    _write(tmp_path / READY, _ready())
    with h5netcdf.File(tmp_path / READY, "a") as file:
        file.variables["nersc_sar_primary"].attrs["variable_fill_value"] = stated
    with pytest.raises(SceneError, match="variable_fill_value of 'nersc_sar_primary' is .*: must be a number"):
        open_scene(tmp_path / READY)


@pytest.mark.parametrize("axis", ["line", "sample"])
def test_control_points_that_do_not_rise_are_refused(tmp_path: Path, axis: str) -> None:
    """Angles and places between them were NaN, in silence."""
    planes = _raw()
    planes[f"sar_grid_{axis}"] = np.zeros_like(planes[f"sar_grid_{axis}"])
    with pytest.raises(SceneError, match="control points do not follow each other"):
        open_scene(_write(tmp_path / RAW, planes))


def test_control_points_are_counted_before_any_is_made(tmp_path: Path) -> None:
    planes = _ready() | {f"sar_grid2d_{name}": np.zeros((300, 300)) for name in ("latitude", "longitude")}
    with pytest.raises(SceneError, match="no square grid, as 21 x 21 are"):
        open_scene(_write(tmp_path / READY, planes))


def test_another_pixel_spacing_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / READY, _ready())
    with h5netcdf.File(path, "a") as file:
        file.attrs["pixel_spacing"] = 40
    with pytest.raises(SceneError, match="pixel_spacing 40"):
        open_scene(path)


def test_charts_are_read_by_window(both: tuple[list[Path], list[Path]]) -> None:
    window = Window(31, 7, 50, 100)
    for path in (both[0][0], both[1][0]):
        whole, part = read_charts(path), read_charts(path, window=window)
        for name in whole:
            np.testing.assert_array_equal(part[name], whole[name][window.slices])


def test_a_mask_wins_where_raw_pixels_are_pooled(tmp_path: Path) -> None:
    planes = _raw()
    planes["polygon_icechart"] = np.full((100, 150), 1, np.float32)
    planes["polygon_icechart"][:2, :2] = [[1, 2], [1, 1]]
    planes["polygon_icechart"][10:12, 10:12] = [[1, np.nan], [2, 2]]
    path = _write(tmp_path / RAW, planes)
    _put_codes(path, ["1;20;-9;93;05;-9;-9;-9;-9;-9;-9;-9;-9;-9;I", "2;70;-9;91;04;-9;-9;-9;-9;-9;-9;-9;-9;-9;I"])
    charts = read_charts(path)
    assert (charts["SIC"][0, 0], charts["SIC"][5, 5], charts["SIC"][9, 9]) == (7, MASKED, 2)
    assert charts["FLOE"].shape == (50, 75)


def _put_codes(path: Path, records: list[str]) -> None:
    header = "poly_id;CT;CA;SA;FA;CB;SB;FB;CC;SC;FC;CN;CD;CF;POLY_TYPE"
    variable, values = file_format.text_variable([header, *records], {}, "polygon_codes")
    with h5netcdf.File(path, "a") as file:
        file.dimensions["polygon_codes"] = len(values)
        file.create_variable("polygon_codes", variable.dimensions, variable.dtype, data=values)


def test_an_unknown_code_is_one_line_with_the_file(tmp_path: Path) -> None:
    planes = _raw() | {"polygon_icechart": np.full((100, 150), 1, np.float32)}
    path = _write(tmp_path / RAW, planes)
    _put_codes(path, ["1;20;-9;12;05;-9;-9;-9;-9;-9;-9;-9;-9;-9;I"])
    with pytest.raises(DataError, match=r"polygon 1: SA = 12") as error:
        read_charts(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_class_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    charts = {name: np.zeros((53, 76), np.uint8) for name in ("SIC", "SOD", "FLOE")}
    charts["SOD"][3, 3] = MASKED
    path = _write(tmp_path / READY, charts)
    assert read_charts(path)["SOD"][3, 3] == MASKED
    charts["SOD"][4, 4] = 6
    with pytest.raises(DataError, match="SOD holds 6: classes are 0 to 5, and 255 for none"):
        read_charts(_write(tmp_path / "other_prep.nc", charts))


@pytest.mark.parametrize(
    ("dtype", "fill", "key"),
    [(np.uint8, 99, "_FillValue"), (np.int16, -1, "_FillValue"), (np.int8, -128, "missing_value"),
     (np.uint8, 200, "chart_fill_value"), (np.float32, np.nan, "_FillValue")],
)  # fmt: skip
def test_what_a_chart_calls_missing_is_masked(tmp_path: Path, dtype: type, fill: float, key: str) -> None:
    charts = {name: np.ones((53, 76), dtype) for name in ("SIC", "SOD", "FLOE")}
    charts["SOD"][3, :4] = fill
    attributes: dict[str, dict[str, object]] = {name: {key: dtype(fill)} for name in charts}
    for name, chart in read_charts(_write(tmp_path / READY, charts, attributes)).items():
        assert chart.dtype == np.uint8
        assert (chart == MASKED).sum() == (4 if name == "SOD" else 0) and set(np.unique(chart)) <= {1, MASKED}


def test_a_class_is_a_class_whatever_the_chart_calls_it(tmp_path: Path) -> None:
    charts = {name: np.zeros((53, 76), np.uint8) for name in ("SIC", "SOD", "FLOE")}
    attributes: dict[str, dict[str, object]] = {name: {"_FillValue": np.uint8(0)} for name in charts}
    assert not read_charts(_write(tmp_path / READY, charts, attributes))["SIC"].any()


def test_polygons_that_a_raw_file_calls_missing_are_masked(tmp_path: Path) -> None:
    planes = _raw() | {"polygon_icechart": np.full((100, 150), 1, np.int32)}
    planes["polygon_icechart"][:4, :4] = -999
    path = _write(tmp_path / RAW, planes, {"polygon_icechart": {"_FillValue": np.int32(-999)}})
    _put_codes(path, ["1;20;-9;93;05;-9;-9;-9;-9;-9;-9;-9;-9;-9;I"])
    sic = read_charts(path)["SIC"]
    assert (sic == MASKED).sum() == 4 and (sic[:2, :2] == MASKED).all() and (sic[2:] == 2).all()


def test_a_scene_without_charts_takes_those_of_its_reference(tmp_path: Path) -> None:
    path = _write(tmp_path / READY, _ready())
    reference = {name: np.full((53, 76), value, np.uint8) for value, name in enumerate(("SIC", "SOD", "FLOE"))}
    other = _write(tmp_path / "20200102T030405_dmi_prep_reference.nc", reference)
    assert not has_charts(path) and has_charts(other)
    with pytest.raises(DataError, match=r"has no chart SIC, SOD, FLOE: .*--references"):
        read_charts(path)
    assert read_charts(path, other)["FLOE"].max() == 2


def test_channels_have_units_and_unknown_ones_are_refused() -> None:
    assert bands_of(["u10m_rotated", "month", "v10m_rotated"]).vector_pairs == (("u10m_rotated", "v10m_rotated"),)
    assert bands_of(["u10m_rotated"]).vector_pairs == ()
    with pytest.raises(SettingsError, match="channel 'hh' is unknown: known are nersc_sar_primary"):
        bands_of(["month", "hh"])
    with pytest.raises(SettingsError, match="'month' is asked for twice"):
        bands_of(["month", "t2m", "month"])


@pytest.mark.parametrize("packed", [RADAR, ("t2m", "btemp_6_9h"), ("sar_grid2d_latitude", "sar_grid2d_longitude")])
def test_packed_variables_are_what_they_stand_for(tmp_path: Path, packed: tuple[str, ...]) -> None:
    """As saving a file again with scale_factor and add_offset leaves it; whole numbers of 1/64 are exact in float32."""
    planes = _ready()
    planes |= {name: np.round(planes[name] * 64) / 64 for name in (*RADAR, *COARSE_STANDARD)}
    planes |= {name: np.round(planes[name] * 64) / 64 for name in ("sar_grid2d_latitude", "sar_grid2d_longitude")}
    planes = {name: values.astype("float64" if "grid2d" in name else "float32") for name, values in planes.items()}
    marks = {name: {"variable_fill_value": np.int64(0)} for name in RADAR}
    for name in RADAR:
        planes[name][3, 4:9] = 0
    first, second = tmp_path / "a" / READY, tmp_path / "b" / READY
    for path in (first, second):
        path.parent.mkdir()
    _write(first, planes, marks)
    numbers = {name: np.round(planes[name] * 64).astype(np.int16) for name in packed}
    attributes = {name: {"scale_factor": 1 / 64, "add_offset": 0.0} | marks.get(name, {}) for name in packed}
    _write(second, planes | numbers, marks | attributes)
    with open_scene(first) as plain, open_scene(second) as scene:
        assert scene.grid == plain.grid
        assert sorted(packed_variables(scene)) == sorted(name for name in packed if "grid2d" not in name)
        assert packed_variables(plain) == []
        for layer, window in ((SAR, Window(0, 0, 50, 75)), (COARSE, Window(0, 0, 50, 75))):
            mine, theirs = scene.read_layers(window, [layer])[layer], plain.read_layers(window, [layer])[layer]
            np.testing.assert_array_equal(mine.valid, theirs.valid)
            np.testing.assert_array_equal(mine.values[mine.valid], theirs.values[theirs.valid])
        assert not plain.read_layers(Window(0, 0, 50, 75), [SAR])[SAR].valid[0, 3, 4:9].any()


def test_control_points_go_on_beyond_180_degrees(tmp_path: Path) -> None:
    """A GIS draws a map by them, and would draw it around the Earth."""
    planes = _ready()
    longitude = np.meshgrid(np.linspace(70, 75, 21), np.linspace(170, 190, 21), indexing="ij")[1]
    planes["sar_grid2d_longitude"] = (longitude + 180) % 360 - 180
    with open_scene(_write(tmp_path / "20200716T030405_cis_prep.nc", planes)) as scene:
        assert [point.x for point in scene.grid.gcps] == pytest.approx(longitude.ravel().tolist())
    # Around a pole no way goes on.
    angles = np.linspace(-1, 1, 21)
    planes["sar_grid2d_longitude"] = np.degrees(np.arctan2(*np.meshgrid(angles, angles - 0.02)))
    with open_scene(_write(tmp_path / "20200717T030405_cis_prep.nc", planes)) as scene:
        assert [point.x for point in scene.grid.gcps] == planes["sar_grid2d_longitude"].ravel().tolist()
