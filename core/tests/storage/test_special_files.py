"""Special files are refused at once, by whatever name and link they come."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import sys
from pathlib import Path

import pytest

from geocore.cli.checks import check_inputs, check_run
from geocore.cli.config import read_file
from geocore.datasets.dataset import Dataset
from geocore.datasets.pairing import pair_by_suffix
from geocore.datasets.schema import Sample
from geocore.errors import CheckpointError, DataError, RunError, SceneError, SettingsError, WeightsError
from geocore.inference.batch import scene_jobs
from geocore.raster.bands import Band, Bands
from geocore.raster.netcdf import NetcdfFile
from geocore.raster.products import find_scenes, open_scene, scene_hash
from geocore.raster.scene import Layer
from geocore.raster.write import read_legend
from geocore.storage.files import sha256_file
from geocore.storage.special_files import check_regular, open_regular
from geocore.training.checkpoint import load_checkpoint
from geocore.training.pretrained import load_foreign

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such files there")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(path) -> str:
    """Why a path is not opened; both ways of asking say the same."""
    reasons = []
    for ask in (check_regular, open_regular):
        with pytest.raises(OSError) as caught:
            ask(path)
        assert caught.value.filename == str(path)
        reasons.append(caught.value.strerror)
    assert reasons[0] == reasons[1]
    return reasons[0]


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_does_not_keep_its_reader_waiting(folder, linked):
    os.mkfifo("pipe.tif")
    os.symlink("pipe.tif", "link.tif")
    assert refused("link.tif" if linked else folder / "pipe.tif") == "is a named pipe"


def test_a_socket_is_no_file(folder):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("a.tif")
        assert refused("a.tif") == "is a socket"


def test_a_device_is_no_file_behind_links_too(folder):
    assert refused("/dev/null") == "is a device"
    os.symlink("/dev/zero", "first")
    os.symlink("first", "a.tif")
    assert refused("a.tif") == "is a device"


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="no /proc")
def test_what_the_system_shows_of_itself_is_no_data(folder):
    os.symlink("/proc", "data")
    assert refused("data/self/environ") == refused("/proc/self/environ") == "lies in /proc, which holds no data"


def test_what_cannot_be_opened_is_told_as_the_system_tells_it(folder):
    os.symlink("b", "a")
    os.symlink("a", "b")
    assert refused("a") == os.strerror(errno.ELOOP)
    assert refused("none") == os.strerror(errno.ENOENT)
    assert refused(".") == "is a folder"


def test_files_and_links_to_files_are_read(folder):
    (folder / "a").write_bytes(b"text")
    os.symlink("a", "b")
    for path in ("a", folder / "b"):
        check_regular(path)
        with open_regular(path) as file:
            assert file.read() == b"text"


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no disk in memory")
def test_a_disk_in_memory_holds_data(folder):
    path = f"/dev/shm/geocore-test-{os.getpid()}"
    try:
        with open(path, "wb") as file:
            file.write(b"text")
        with open_regular(path) as opened:
            assert opened.read() == b"text"
    finally:
        os.unlink(path)


# Readers, each of which would wait for ever


@pytest.fixture
def pipe(folder):
    def made(name: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
        return path

    return made


def test_a_pipe_among_scenes_fails_alone(pipe, folder):
    (folder / "scenes").mkdir()
    (folder / "scenes" / "a.tif").write_bytes(b"no raster")
    pipe("scenes/b.tif")
    os.symlink("nowhere", folder / "scenes" / "c.tif")
    os.symlink("d.tif", folder / "scenes" / "d.tif")
    found = find_scenes([folder / "scenes"], extensions=[".tif"])
    assert list(found) == ["a", "b", "c", "d"]
    tasks = {task.key: task.arguments for task in scene_jobs(found, scene_hash)}
    assert len(tasks["a"]["sha256"]) == 64
    for name, reason in (("b", "is a named pipe"), ("c", "No such file"), ("d", "Too many levels of symbolic links")):
        assert reason in tasks[name]["unread"]
        with pytest.raises(SceneError, match="there is no such file" if name == "c" else reason):
            open_scene(found[name])


def test_a_pipe_that_is_given_is_refused_at_once(pipe, folder):
    path = pipe("a.tif")
    assert find_scenes([path], extensions=[".tif"]) == {"a": path}
    with pytest.raises(DataError, match=r"a.tif: is a named pipe: must be a readable scene or a folder"):
        check_inputs([path], folder / "out")
    with pytest.raises(RunError, match=r"a.tif: is a file: --run takes the folder"):
        check_run(path, "floods")


def test_a_pipe_among_images_and_labels_is_a_pair_that_cannot_be_read(pipe, folder):
    pipe("raw/a.tif")
    pipe("raw/a_mask.png")
    assert [pair.stem for pair in pair_by_suffix(folder / "raw")] == ["a"]


def test_no_reader_waits_for_a_pipe(pipe, folder):
    for ask, name, error in (
        (sha256_file, "a.bin", OSError),
        (read_legend, "a.tif.aux.xml", None),
        (NetcdfFile, "a.nc", SceneError),
        (Dataset.load, "dataset.yaml", DataError),
        (read_file, "settings.yaml", SettingsError),
        (load_foreign, "weights.safetensors", WeightsError),
        (load_foreign, "weights.pth", WeightsError),
    ):
        path = pipe(name)
        if error is None:
            assert ask(path.with_name("a.tif")) is None
            continue
        with pytest.raises(error, match="is a named pipe"):
            ask(path)


def test_no_pipe_in_a_run_is_waited_for(pipe, folder):
    pipe("checkpoints/last")
    pipe("checkpoints/best")
    with pytest.raises(CheckpointError, match="has no 'last' checkpoint"):
        load_checkpoint(folder / "checkpoints")
    pipe("checkpoints/step-000001/state.json")
    with pytest.raises(CheckpointError, match="is a named pipe"):
        load_checkpoint(folder / "checkpoints", "step-000001")


def test_a_data_set_names_a_file_elsewhere_with_its_hash_only(folder):
    (folder / "raw").mkdir()
    (folder / "raw" / "a.bin").write_bytes(b"a")
    layer = Layer("image", Bands((Band("1"),)), "uint8")
    sample = Sample("a", "a", "train", {"image": "../raw/a.bin"})
    for hashes in ({}, {"../raw/a.bin": sha256_file(folder / "raw" / "a.bin")}):
        Dataset(
            root=folder / "data",
            task="test",
            samples=[dataclasses.replace(sample, hashes=hashes)],
            layers={"image": layer},
        ).save()
        if hashes:
            assert Dataset.load(folder / "data").samples[0].hashes == hashes
        else:
            with pytest.raises(
                DataError, match=r"'a' names ../raw/a.bin, outside of the data set's folder and without"
            ):
                Dataset.load(folder / "data")
