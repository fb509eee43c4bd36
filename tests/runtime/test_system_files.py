"""Files appear complete or not at all."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from esrgan_deploy import OutputError
from esrgan_deploy.system import files
from esrgan_deploy.system.files import ScratchFile, check_writable, replacing, scratch_folder, sync_folder, write_json
from esrgan_deploy.system.paths import temporary_cache


def test_new_content_replaces_the_old_at_the_end_only(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replacing(target) as partial:
        partial.write_text("new")
        assert target.read_text() == "old"
        assert partial.suffix == ".txt"
        assert partial.parent == tmp_path
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_any_exception_leaves_the_old_content(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), replacing(target) as partial:
        partial.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_only_errors_of_this_file_are_called_errors_of_this_file(tmp_path):
    target = tmp_path / "a.txt"
    with pytest.raises(FileNotFoundError), replacing(target):
        (tmp_path / "another").read_text()
    with pytest.raises(BrokenPipeError), replacing(target):
        raise BrokenPipeError
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written: No space left"), replacing(target):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_can_be_replaced(tmp_path):
    target = tmp_path / f"{'ü' * 120}.a.txt"
    for text in ("old", "new"):
        with replacing(target) as partial:
            partial.write_text(text)
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_long_suffix_leaves_room_for_the_temporary_name(tmp_path):
    target = tmp_path / f"a.{'x' * 250}"
    with replacing(target) as partial:
        partial.write_text("new")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.unix("makes a pipe and a device")
@pytest.mark.parametrize("call", [check_writable, lambda path: replacing(path).__enter__()])
def test_no_file_takes_the_place_of_a_pipe_or_a_device(tmp_path, call):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        with pytest.raises(OutputError, match=f"{name}: is a device or a pipe; name a file"):
            call(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("call", [check_writable, lambda path: replacing(path).__enter__()])
def test_a_name_of_300_characters_is_refused_in_one_line(tmp_path, call):
    with pytest.raises(OutputError, match=r"a name of 304 bytes in it is too long; 255 is the most") as caught:
        call(tmp_path / f"{'x' * 300}.txt")
    assert len(str(caught.value)) < 200


@pytest.mark.unix("flags of an open file")
def test_what_is_flushed_is_open_for_writing(tmp_path, monkeypatch):
    """Windows refuses otherwise: EBADF."""
    import fcntl

    flushed = []
    monkeypatch.setattr(files.os, "fsync", lambda file: flushed.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE))
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_text("new")
    assert flushed == [os.O_RDWR]


def test_folders_that_cannot_be_flushed_are_left_alone(tmp_path):
    sync_folder(tmp_path)
    sync_folder(tmp_path / "none")


def test_json_ends_its_lines_alike_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "linesep", "\r\n")
    write_json(tmp_path / "a.json", {"ü": 1})
    assert (tmp_path / "a.json").read_bytes() == b'{\n  "\\u00fc": 1\n}\n'


@pytest.mark.parametrize("nameless", [True, False])
def test_a_scratch_file_is_gone_when_it_is_closed(tmp_path, monkeypatch, nameless):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not nameless:
        monkeypatch.setattr(files, "_OPEN_FILES", tmp_path / "none")
    file = ScratchFile(memoryview(b"content"))
    assert file.path.read_bytes() == b"content"
    assert file.path.read_bytes() == b"content", "from its beginning each time"
    left = list(tmp_path.rglob("*"))
    assert bool(left) is not (nameless and sys.platform == "linux")
    file.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tiny_disk", ["4k"], indirect=True)
def test_full_or_missing_temporary_folders_are_said_in_one_line(tiny_disk, monkeypatch):
    words = "no temporary file can be written: .*; make room, or set TMPDIR to another folder"
    monkeypatch.setattr(tempfile, "tempdir", str(tiny_disk))
    with pytest.raises(OutputError, match=words), scratch_folder() as folder:
        (folder / "a").write_bytes(bytes(100_000))
    with pytest.raises(OutputError, match=words):
        ScratchFile(bytes(100_000))
    assert list(tiny_disk.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tiny_disk / "none"))
    for make in (scratch_folder().__enter__, lambda: ScratchFile(b""), lambda: temporary_cache("a test")):
        with pytest.raises(OutputError, match=words):
            make()


def test_faults_of_other_files_are_not_those_of_a_scratch_folder(tmp_path):
    with pytest.raises(FileNotFoundError), scratch_folder():
        (tmp_path / "none").read_bytes()


@pytest.mark.unix("kills a process")
def test_a_killed_process_leaves_no_target(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from esrgan_deploy.system.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as partial: partial.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")])
    assert not (tmp_path / "a.txt").exists()
    (left,) = tmp_path.iterdir()
    assert Path(left).name.startswith(".a.")
