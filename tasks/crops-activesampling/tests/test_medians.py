"""The cache of medians holds what is computed directly, is made once, and says in one line what cannot be made."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crops_activesampling import caching, composites
from crops_activesampling.caching import FOLDER, cache_patches
from crops_activesampling.composites import patch_composites
from crops_activesampling.config import CompositeSettings, MediansSettings
from crops_activesampling.encoders import Encoder
from crops_activesampling.medians import medians
from crops_activesampling.s4a_format import PatchName, find_patches, open_patch
from crops_activesampling.sample import TEST_X, write_patch_of_sample
from geocore.cli.main import command
from geocore.errors import SettingsError
from geocore.raster.npy_store import read_cached, read_entry

BANDS = ("B03", "B11")
SETTINGS = CompositeSettings(bands=list(BANDS), frequency="2MS")
CEREALS = Encoder("cereals", ("ignored", "wheat", "barley"), ((0,), (110,), (150,)))
SUMMER = Encoder("summer", ("ignored", "maize", "others"), ((0,), (120,), (438, 510)))


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patches with two bands."""
    folder = tmp_path_factory.mktemp("patches")
    for number in range(3):
        write_patch_of_sample(folder, PatchName(2019, "31TCG", TEST_X + number, 0), size=36, bands=BANDS)
    return folder


def statuses(patches: Path, out: Path, settings: CompositeSettings = SETTINGS, **options: Any) -> list[str]:
    return [outcome.status for outcome in cache_patches(find_patches(patches), out, settings, **options)]


def test_entries_hold_composites_parcels_classes_and_what_they_were_made_of(patches: Path, tmp_path: Path) -> None:
    assert statuses(patches, tmp_path, encoder=CEREALS) == ["done"] * 3
    for path in find_patches(patches):
        with open_patch(path) as patch:
            expected, labels, parcels = patch_composites(patch, SETTINGS), patch.labels(), patch.parcels()
        key = PatchName.of(path).id
        stored = {
            name: read_cached(tmp_path / FOLDER, key, name) for name in ("medians", "counts", "parcels", "labels")
        }
        assert stored["medians"].shape == (6, 2, 36, 36)
        np.testing.assert_array_equal(stored["medians"], expected.medians)
        np.testing.assert_array_equal(stored["counts"], expected.counts)
        np.testing.assert_array_equal(stored["parcels"], parcels)
        assert [stored[name].dtype for name in stored] == [np.uint16, np.uint8, np.uint32, np.uint8]
        np.testing.assert_array_equal(stored["labels"], (labels == 110) + 2 * (labels == 150))
        facts = read_entry(tmp_path / FOLDER, key).facts
        assert facts["class_px"] == [
            int(((labels != 110) & (labels != 150)).sum()),
            *((labels == c).sum() for c in (110, 150)),
        ]
        assert facts["edges"] == [f"2019-{month:02d}-01" for month in range(1, 12, 2)] + ["2020-01-01"]
        assert facts["bands"] == list(BANDS)
        assert (facts["crs"], facts["transform"][0]) == ("EPSG:32631", 10.0)


def test_what_is_there_is_left_and_what_changed_is_made_again(patches: Path, tmp_path: Path) -> None:
    copied, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(patches, copied)
    assert statuses(copied, out) == ["done"] * 3
    assert statuses(copied, out) == ["skipped"] * 3
    # An attempt that was stopped leaves no marker.
    names = [PatchName.of(path) for path in find_patches(copied)]
    (out / FOLDER / ".done" / f"{names[1].id}.json").unlink()
    assert statuses(copied, out) == ["skipped", "done", "skipped"]
    before = read_entry(out / FOLDER, names[0].id)
    write_patch_of_sample(copied, names[0], seed=1, size=36, bands=BANDS)
    assert statuses(copied, out) == ["done", "skipped", "skipped"]
    assert read_entry(out / FOLDER, names[0].id).fingerprint != before.fingerprint
    assert statuses(copied, out, CompositeSettings(bands=list(BANDS), frequency="1MS")) == ["done"] * 3
    assert read_cached(out / FOLDER, names[0].id, "medians").shape[0] == 12


def test_a_changed_encoder_keeps_medians_and_a_damaged_entry_does_not(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []

    def counted(*arguments: Any, **options: Any) -> Any:
        computed.append(arguments)
        return patch_composites(*arguments, **options)

    monkeypatch.setattr(caching, "patch_composites", counted)
    assert statuses(patches, tmp_path) == ["done"] * 3
    assert len(computed) == 3
    assert statuses(patches, tmp_path, encoder=CEREALS) == ["done"] * 3
    assert len(computed) == 3
    key = PatchName.of(find_patches(patches)[0]).id
    first = read_entry(tmp_path / FOLDER, key)
    damaged = tmp_path / FOLDER / key / "medians.npy"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert statuses(patches, tmp_path, encoder=SUMMER) == ["done"] * 3
    assert len(computed) == 4
    again = read_entry(tmp_path / FOLDER, key)
    assert again.hashes["medians"] == first.hashes["medians"]
    assert again.facts["class_px"] != first.facts["class_px"]


def test_workers_make_what_one_process_makes(patches: Path, tmp_path: Path) -> None:
    assert statuses(patches, tmp_path / "one", encoder=CEREALS) == ["done"] * 3
    assert statuses(patches, tmp_path / "two", encoder=CEREALS, workers=2) == ["done"] * 3
    for path in find_patches(patches):
        key = PatchName.of(path).id
        one, two = (read_entry(tmp_path / name / FOLDER, key) for name in ("one", "two"))
        assert one == two


def test_a_patch_that_cannot_be_used_fails_alone(patches: Path, tmp_path: Path, capsys: Any) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(patches, copied)
    write_patch_of_sample(copied, PatchName(2019, "31TCG", TEST_X + 3, 0), size=36, bands=("B03",))
    words = ["--data", str(copied), "--out", str(tmp_path / "out"), "--composites.bands", *BANDS]
    with pytest.raises(SystemExit) as stop:
        command(medians, MediansSettings, prog="crops-medians", argv=words)
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out.count("failed: ") == 1
    assert "no band B11: the file has B03" in said.out
    assert "3 patches, 3 of them made now" in said.out
    assert "1 of 4 patches cannot be used" in said.err
    assert "\n" not in said.err.strip()


def test_the_command_says_which_periods_are_empty_and_goes_on_where_it_was(
    patches: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ["--data", str(patches), "--out", str(tmp_path / "out"), "--composites.bands", *BANDS, "--limit", "2"]
    for made in (2, 0):
        with pytest.raises(SystemExit) as stop:
            command(medians, MediansSettings, prog="crops-medians", argv=words)
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert f"2 patches, {made} of them made now" in out
        # The sample has no image in February 2019 here.
        assert "note: period 2: no data in one band at least in 2 of 2 patches" in out


def test_entries_depend_on_all_the_code_that_makes_medians() -> None:
    # Settings are part of the fingerprint themselves.
    left, package = [composites.__name__], set()
    while left:
        module = importlib.import_module(left.pop())
        package.add(Path(str(module.__file__)))
        nodes = ast.walk(ast.parse(inspect.getsource(module)))
        named = {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        left += [name for name in named if name.startswith("crops_activesampling.") and not name.endswith(".config")]
    assert package < set(caching._CODE)
    assert {"median_network.py", "s4a_format.py"} <= {path.name for path in package}
    assert "hdf5.py" in {path.name for path in caching._CODE}


def test_a_patch_that_becomes_another_while_it_is_read_is_read_anew(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(find_patches(patches)[0], tmp_path))
    made = caching.patch_composites

    def made_and_replaced(*given: Any, **options: Any) -> Any:
        os.utime(path, ns=(1, 1))
        return made(*given, **options)

    monkeypatch.setattr(caching, "patch_composites", made_and_replaced)
    (outcome,) = caching.cache_patches([path], tmp_path / "out", SETTINGS)
    assert outcome.status == "failed" and "became another file while it was read" in outcome.message
    monkeypatch.undo()
    (outcome,) = caching.cache_patches([path], tmp_path / "out", SETTINGS)
    assert outcome.status == "done"


def test_settings_that_would_fail_every_patch_are_one_error(patches: Path, tmp_path: Path) -> None:
    for settings in (CompositeSettings(bands=["B2"]), CompositeSettings(frequency="often")):
        with pytest.raises(SettingsError):
            statuses(patches, tmp_path, settings)
