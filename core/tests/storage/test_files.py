from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from geocore.errors import RunError, StorageError
from geocore.storage.files import (
    FolderLock,
    atomic_path,
    atomic_write_bytes,
    atomic_write_text,
    discard,
    read_sealed,
    remove_leftovers,
    sha256_file,
    sha256_json,
    storage_errors,
    write_sealed,
)


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    atomic_write_bytes(path, b"old")
    atomic_write_text(path, "é\r\n")
    assert path.read_bytes() == b"\xc3\xa9\r\n"
    assert os.listdir(path.parent) == ["a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_failed_block_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        assert temporary.suffix == ".tif"
        assert temporary.parent == tmp_path
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.tif"]


def test_folder_is_written_whole_and_replaces_a_full_one(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    for content in ("old", "new"):
        with atomic_path(target) as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / content).write_text(content)
            assert not (target / "deep" / content).exists()
    assert [path.name for path in (target / "deep").iterdir()] == ["new"]
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "x").touch()
        raise RuntimeError
    assert os.listdir(tmp_path) == ["step-1"]


def test_block_that_writes_nothing_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_disk_trouble_is_one_clear_line(number: int, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="out.bin: .*; ") as caught, storage_errors(tmp_path / "out.bin"):
        raise OSError(number, os.strerror(number))
    assert "\n" not in str(caught.value)
    with pytest.raises(StorageError), atomic_path(tmp_path / "out.bin") as temporary:
        temporary.touch()
        raise OSError(number, os.strerror(number))
    assert os.listdir(tmp_path) == []


def test_an_error_about_a_file_elsewhere_names_that_file(tmp_path: Path) -> None:
    source, target = tmp_path / "inputs" / "a.tif", tmp_path / "out" / "b.tif"
    for named, culprit in ((source, source), (target.with_name(".part-1-b.tif"), target), (tmp_path, target)):
        with pytest.raises(StorageError) as caught, atomic_path(target):
            raise PermissionError(errno.EACCES, "denied", str(named))
        assert str(caught.value).startswith(f"{culprit}: permission denied")


def test_other_os_errors_pass_through() -> None:
    with pytest.raises(FileNotFoundError), storage_errors("x"):
        raise FileNotFoundError(errno.ENOENT, "missing")


def test_file_in_place_of_the_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="in the way"):
        atomic_write_text(tmp_path / "file" / "a.txt", "")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="in the way"):
        atomic_write_text(tmp_path / "folder", "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_real_failure_of_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from geocore.storage.files import *; from geocore.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: atomic_write_bytes(sys.argv[1], bytes(5000))\n"
        "except StorageError as error: print(error)"
    )
    path = tmp_path / "a"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert str(path) in done.stdout
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert sha256_json({"b": [1, 2.5, None], "a": "é"}) == sha256_json({"a": "é", "b": [1, 2.5, None]})
    assert sha256_json({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert sha256_json([1, 2]) != sha256_json([2, 1])
    with pytest.raises(TypeError):
        sha256_json({"a": object()})


def test_lock_is_exclusive_and_can_be_taken_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with FolderLock(folder), pytest.raises(RunError, match=f"process {os.getpid()}.*another folder"):
        FolderLock(folder).acquire()
    with FolderLock(folder) as lock, pytest.raises(ValueError, match="already"):
        lock.acquire()
    lock.release()


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
@pytest.mark.parametrize("call", ["fcntl.flock", "os.ftruncate"])
def test_a_lock_that_cannot_be_taken_is_one_line_and_leaves_no_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOLCK if call == "fcntl.flock" else errno.ENOSPC, "fails")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(StorageError, match="has no locks" if call == "fcntl.flock" else "no space left"):
            FolderLock(tmp_path).acquire()
    assert len(os.listdir("/proc/self/fd")) == before
    with FolderLock(tmp_path):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
def test_lock_dies_with_its_owner(tmp_path: Path) -> None:
    code = (
        "import sys, time; from geocore.storage.files import FolderLock\n"
        "lock = FolderLock(sys.argv[1]); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"process {owner.pid}"):
            FolderLock(tmp_path).acquire()
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    with FolderLock(tmp_path):
        pass


def test_a_lock_follows_no_link_and_spares_what_is_none(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    lock = folder / ".lock"
    lock.symlink_to(mine)
    with pytest.raises(StorageError, match="symbolic link"):
        FolderLock(folder).acquire()
    assert mine.read_text() == "mine" and not FolderLock.is_held(folder)
    lock.unlink()
    lock.hardlink_to(mine)
    with pytest.raises(StorageError, match="is no lock but holds other content"):
        FolderLock(folder).acquire()
    assert mine.read_text() == "mine"
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(StorageError, match="in the way"):
        FolderLock(folder).acquire()


def test_whether_a_lock_is_held(tmp_path: Path) -> None:
    assert not FolderLock.is_held(tmp_path)
    with FolderLock(tmp_path):
        assert FolderLock.is_held(tmp_path)
    assert not FolderLock.is_held(tmp_path)
    with FolderLock(tmp_path):
        pass


def test_what_a_killed_process_left_goes_and_nothing_else(tmp_path: Path) -> None:
    """Killed at the moment in which all of it is there."""
    code = (
        "import os, signal, sys; from pathlib import Path; from geocore.storage.files import atomic_path\n"
        "folder = Path(sys.argv[1])\n"
        "with atomic_path(folder / 'a.tif') as file, atomic_path(folder / 'b') as part:\n"
        "    file.touch(); Path(f'{file}.working.tif').touch(); Path(f'{file}-journal').touch()\n"
        "    part.mkdir(); (part / 'deep').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    left = os.listdir(tmp_path)
    assert len(left) == 4
    mine = {".part-of-the-film", ".part-0123456789ab-a.tif", "part", ".old-house"}
    for name in mine:
        (tmp_path / name).mkdir()
    elsewhere = left[0].replace(left[0][6:14], "0" * 8)
    (tmp_path / elsewhere).touch()
    with atomic_path(tmp_path / "c") as own:
        own.touch()
        remove_leftovers(tmp_path)
        assert set(os.listdir(tmp_path)) == {*mine, elsewhere, own.name}
    old = time.time() - 8 * 24 * 3600
    os.utime(tmp_path / elsewhere, (old, old))
    remove_leftovers(tmp_path)
    assert set(os.listdir(tmp_path)) == {*mine, "c"}
    remove_leftovers(tmp_path / "nowhere")


def test_a_folder_that_had_stepped_aside_for_one_that_never_came_is_put_back(
    tmp_path: Path, killed_writer: str
) -> None:
    for name in ("a", "b"):
        (tmp_path / f".old-{killed_writer}-{name}").mkdir()
        (tmp_path / f".old-{killed_writer}-{name}" / "old").touch()
    (tmp_path / "b").mkdir()
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path / "a") == ["old"] and os.listdir(tmp_path / "b") == []
    assert set(os.listdir(tmp_path)) == {"a", "b"}


def test_a_sealed_file_says_whether_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, {"numbers": (1, 2.5), "name": "é"})
    assert read_sealed(path) == {"numbers": [1, 2.5], "name": "é"}
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with suppress(ValueError):  # what stays is white space
            assert read_sealed(path) == {"numbers": [1, 2.5], "name": "é"}
    for content in (b"", b"{}", b"[]", b"[" * 100_000, whole[:-20], b"\xff"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not what was written"):
            read_sealed(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="named pipe"):
        read_sealed(path)


def test_a_discarded_folder_bears_its_name_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    seen = []
    monkeypatch.setattr("geocore.storage.files.shutil.rmtree", lambda path, ignore_errors: seen.append(Path(path)))
    discard(tmp_path / "a")
    assert not (tmp_path / "a").exists() and (seen[0] / "b").exists() and seen[0].name.startswith(".part-")
