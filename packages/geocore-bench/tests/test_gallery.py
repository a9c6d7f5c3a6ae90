"""The gallery shows the map in the classes of the label, at the size of the picture."""

import os

import numpy as np
import pytest
import rasterio

from geocore_bench import gallery, golden


def write(path, bands):
    values = np.array(bands, np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2], dtype="uint8"
    ) as target:
        target.write(values)
        if len(values) == 1:
            target.write_colormap(1, {value: (9 * value, 255 - value, 0) for value in range(20)})


def test_every_task_of_the_golden_run_is_shown():
    assert set(gallery.SHOWN) == set(golden.GOLDEN)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_band_of_the_label_is_drawn_at_the_size_of_the_picture(tmp_path):
    first, second = np.zeros((4, 4), int), np.arange(16).reshape(4, 4)
    write(tmp_path / "a_pred.tif", [first, second])
    marks = gallery.mapped(
        tmp_path / "a_pred.tif", gallery.Shown("t", "_pred.tif", "y", "*.tif"), ["x", "y"], (2, 2), 20
    )
    assert marks.classes.tolist() == [[5, 7], [13, 15]]
    marks = gallery.mapped(
        tmp_path / "a_pred.tif", gallery.Shown("t", "_pred.tif", "y", "*.tif"), ["x", "y"], (4, 4), 6
    )
    # Numbers beyond the last colour begin again with the first one, and 0 stays nothing.
    assert marks.classes[0, 0] == 0 and marks.classes.max() == 6 and marks.classes[1].tolist() == [4, 5, 6, 1]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_objects_side_by_side_are_outlined_each(tmp_path):
    write(tmp_path / "a_instances.tif", [[[0, 3, 7], [0, 3, 7]]])
    shown = gallery.Shown("t", "_instances.tif", "instances", "*.tif")
    marks = gallery.mapped(tmp_path / "a_instances.tif", shown, ["instances"], (2, 3), 1)
    assert marks.classes.tolist() == [[0, 1, 1]] * 2
    assert marks.regions is not None and marks.regions.tolist() == [[0, 3, 7]] * 2


def test_an_unknown_task_is_told_in_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        gallery.main(["glaciers"])
    assert stopped.value.code == 2
    assert "no task glaciers: there are snowpack, slumps" in capsys.readouterr().err


def test_the_sample_of_the_code_of_today_is_taken(tmp_path):
    for number, name in enumerate(("crops-sample-zz", "crops-sample-aa", "floods-sample-bb")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (number, number))
    assert golden.sample_of("crops", tmp_path).name == "crops-sample-aa"
