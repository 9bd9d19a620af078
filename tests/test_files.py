"""Files that appear whole, temporary folders, and locks."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from trt_pose import ExportError, SourceError
from trt_pose.files import (
    cache_folder,
    check_readable,
    check_writable,
    exclusive,
    temporary_folder,
    write_atomically,
    write_together,
)  # fmt: skip
from trt_pose.images.draw import show


def age(path, seconds=60):
    past = time.time() - seconds
    os.utime(path, (past, past))
    return path


def test_files_that_belong_together_appear_together(tmp_path):
    first, second = tmp_path / "x.engine", tmp_path / "x.engine.json"
    first.write_text("old")
    second.write_text("old")

    def fails(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ExportError, match="No space left"):
        write_together({first: lambda path: path.write_text("new"), second: fails}, ExportError)
    assert (first.read_text(), second.read_text()) == ("old", "old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.engine", "x.engine.json"]
    write_together({item: lambda path: path.write_text("new") for item in (first, second)}, ExportError)
    assert (first.read_text(), second.read_text()) == ("new", "new")


def test_what_killed_runs_left_beside_an_output_is_removed(tmp_path):
    """Only files of that name, which no process holds, and not those that were made a moment ago."""
    (tmp_path / ".model.abcd1234.onnx").touch()
    dead = age(tmp_path / ".model.abcd1234.onnx")
    (tmp_path / ".model.fresh_12.onnx").touch()
    (tmp_path / ".other.abcd1234.onnx").touch()
    age(tmp_path / ".other.abcd1234.onnx")
    write_atomically(tmp_path / "model.onnx", lambda path: path.write_text("x"), ExportError)
    assert not dead.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".model.fresh_12.onnx", ".other.abcd1234.onnx", "model.onnx"
    ]  # fmt: skip


def test_temporary_folders_of_killed_processes_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, tempfile, pathlib; from trt_pose.files import temporary_folder\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "with temporary_folder('eval') as folder:\n"
        "    (folder / 'big').write_bytes(bytes(1000)); print(folder, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as other:
        folder = tmp_path / Path(other.stdout.readline().strip()).name
        age(folder)
        with temporary_folder("eval") as mine:
            assert mine.exists()
            assert folder.exists()  # its process lives
        other.kill()
        other.wait()
    age(folder)
    with temporary_folder("build"):
        assert not folder.exists()
    assert not list(tmp_path.iterdir())


def test_a_picture_that_a_viewer_shows_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("webbrowser.get", lambda: None)
    monkeypatch.setattr("webbrowser.open", lambda _: True)
    show(np.zeros((8, 8, 3), np.uint8))
    (folder,) = tmp_path.iterdir()
    age(folder)
    with temporary_folder("eval"):
        assert (folder / "poses.png").exists()


def test_two_runs_do_not_share_a_folder(tmp_path):
    with exclusive(tmp_path, SourceError):
        with pytest.raises(SourceError, match="another run writes to it"), exclusive(tmp_path, SourceError):
            pass
        write_atomically(tmp_path / "a", lambda path: path.write_text("x"), SourceError)
    with exclusive(tmp_path, SourceError):
        pass


def test_a_name_of_255_bytes(tmp_path):
    path = tmp_path / ("n" * 250 + ".onnx")
    write_atomically(path, lambda file: file.write_text("x"), ExportError)
    assert path.read_text() == "x"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.mkdir(), "it is a folder"),
        (os.mkfifo, "a device or a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a device or a pipe"),
        (lambda path: path.symlink_to(path.name), "(?i)symbolic link"),
        (lambda path: None, "there is no such file"),
    ],
    ids=["folder", "pipe", "device", "loop", "nothing"],
)
def test_what_is_no_file_is_neither_read_nor_written(tmp_path, make, words):
    path = tmp_path / "odd"
    make(path)
    with pytest.raises(ExportError, match=words):
        check_readable(path, "reading", ExportError)
    if path.is_symlink() or path.exists():
        with pytest.raises(ExportError, match=r"^writing .*\. Choose a writable place"):
            check_writable(path, ExportError)


def test_the_cache_of_a_user_without_a_home_is_its_own(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError))
    assert str(os.getuid()) in str(cache_folder("weights"))
