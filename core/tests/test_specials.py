"""Special files are refused at once, by whatever name and link they come."""

from __future__ import annotations

import errno
import os
import socket
import sys

import pytest

from geocore.specials import check_regular, open_regular

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
