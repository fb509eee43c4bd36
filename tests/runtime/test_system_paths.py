"""Names that systems do not take for files, paths of the same file, URLs for FFmpeg, and where caches are."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from esrgan_deploy import OutputError
from esrgan_deploy.cli.upscale import main
from esrgan_deploy.system import paths
from esrgan_deploy.system.paths import check_name, file_url, name_fault, path_key, real_path, user_cache, writable_cache

LONG = "x" * 300


@pytest.mark.parametrize(
    ("path", "words"),
    [
        *(
            (name, "is a device on Windows")
            for name in ("CON", "nul.png", r"C:\clips\Com1.tar.gz", "LPT¹.mp4", "aux .x")
        ),
        (r"C:\aux\clip.mp4", "'aux' is a device"),
        (r"clips\CONIN$", "is a device"),
        ("clip:out.mp4", "takes no ':'"),  # would be written as a stream of the file `clip`
        ("what?.png", r"takes no '\?'"),
        ("a\tb.png", "takes no"),
        ("out. ", "drops the dots and spaces at the end of 'out. '"),
        (r"clips.\out.png", "at the end of 'clips.'"),
        (f"{LONG}.mp4", "a name of 304 characters in it is too long; 255 is the most"),
        ("C:\\" + "folder\\" * 5000 + "a.png", "this path is too long; 32767"),
    ],
)
def test_names_that_windows_does_not_take(path, words):
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(name_fault(path, "win32"))


@pytest.mark.parametrize(
    "path",
    [
        *("out.mp4", r"C:\clips\out.mp4", "C:out.mp4", r"..\out.png", r".\a\..\b.png", r"\\server\share\out.mp4"),
        *("console.png", "com10.mp4", "nul_.png", ".hidden", "C:/clips/out.mp4", "ü" * 250),
        *(r"\\?\C:\clips\nul.mp4", "\\\\?\\C:\\" + "folder\\" * 100 + "a.png"),
    ],
)
def test_names_that_windows_takes(path):
    assert name_fault(path, "win32") is None


def test_a_path_of_300_characters_needs_long_paths_in_windows():
    path = "C:\\" + "folder\\" * 42 + "a.png"
    assert name_fault(path, "win32", long_paths=True) is None
    fault = name_fault(path, "win32", long_paths=False)
    assert "is longer than 259 characters; shorten it, or begin it with \\\\?\\" in fault
    assert "\n" not in fault
    assert len(fault) < 200
    assert name_fault(f"\\\\?\\{path}", "win32", long_paths=False) is None


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_elsewhere_bytes_are_counted_and_no_name_is_reserved(system):
    for path in ("nul.png", "clip:out.mp4", "out. ", "C:\\aux", "/tmp/a?.png", "ü" * 127):
        assert name_fault(path, system) is None
    assert "a name of 256 bytes" in name_fault("ü" * 128, system)
    assert "this path is too long" in name_fault("a/" * 2100, system)
    assert "zero byte" in name_fault("a\0b", system)


def test_this_system_refuses_by_its_own_rules(tmp_path):
    check_name(tmp_path / "out.png")
    with pytest.raises(OutputError, match="too long") as caught:
        check_name(tmp_path / LONG)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("words", [[f"{LONG}.png", "-o", "out.png"], ["in.png", "-o", f"{LONG}.png"]])
def test_a_command_refuses_a_path_of_300_characters_in_one_line(capsys, words):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a name of 304 bytes in it is too long; 255 is the most" in line


def test_paths_of_the_same_file_have_one_key():
    assert path_key(r"C:\Clips\A.MP4", "win32") == path_key("c:/clips/a.mp4", "win32")
    assert path_key(r"\\?\C:\Clips\a.mp4", "win32") == path_key(r"C:\clips\a.mp4", "win32")
    assert path_key("/clips/\u00dcber.png", "darwin") == path_key("/Clips/u\u0308ber.png", "darwin")
    assert path_key("/clips/a.png", "linux") != path_key("/clips/A.png", "linux")


def test_ffmpeg_is_told_that_a_path_is_a_file():
    assert file_url("concat:a|b.mp4", "linux") == "file:concat:a|b.mp4"
    assert file_url("a\\b.mp4", "linux") == "file:a\\b.mp4"
    assert file_url("C:\\clips\\a.m3u8", "win32") == "file:C:/clips/a.m3u8"
    assert file_url("C:a.mp4", "win32") == "file:C:a.mp4"
    assert file_url("\\\\?\\C:\\clips\\a.mp4", "win32") == "file:\\\\?\\C:\\clips\\a.mp4"


# --- the user's cache -------------------------------------------------------------------------------------------------


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    paths.temporary_cache.cache_clear()
    yield tmp_path
    paths.temporary_cache.cache_clear()


@pytest.mark.linux("names folders as the XDG specification does")
def test_caches_are_where_they_were(home, monkeypatch):
    assert user_cache() == home / ".cache/esrgan-deploy"
    assert user_cache("engines") == home / ".cache/esrgan-deploy/engines"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_cache("tuning") == home / ".cache/esrgan-deploy/tuning"
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert user_cache("tuning") == Path("/some/where/esrgan-deploy/tuning")


def test_a_writable_home_is_used(home, caplog):
    folder = writable_cache("engines")
    assert folder == user_cache("engines")
    assert folder.is_dir()
    assert not caplog.records


@pytest.mark.linux("finds no home by taking the name of one")
def test_without_a_home_a_temporary_cache_is_used_and_that_is_said_once(home, monkeypatch, caplog):
    import pwd

    def nobody(_):
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(OutputError, match="no home folder for a cache; set XDG_CACHE_HOME"):
        user_cache("engines")
    with caplog.at_level(logging.WARNING):
        folders = [writable_cache("engines"), writable_cache("engines"), writable_cache("pictures")]
    assert len({folder.parent for folder in folders}) == 1
    assert all(folder.is_dir() for folder in folders)
    (record,) = caplog.records
    assert record.message == (
        "there is no home folder for a cache; set XDG_CACHE_HOME to a folder; now nothing is kept for the next run"
    )


@pytest.mark.linux("mounts a file system")
def test_a_home_that_cannot_be_written_is_no_obstacle(home, monkeypatch, tiny_disk):
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    monkeypatch.setenv("HOME", str(tiny_disk))
    code = (
        "import logging; from esrgan_deploy.system.paths import writable_cache\n"
        "logging.basicConfig(format='%(message)s')\n"
        "folder = writable_cache('engines'); (folder / 'a').write_text('a'); print(folder); writable_cache('engines')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip())
    assert not folder.is_relative_to(tiny_disk)
    assert not folder.exists(), "it is gone with the process"
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{tiny_disk}/.cache/esrgan-deploy/engines: cannot be made: Read-only file system; ")


@pytest.mark.unix("makes links without further ado")
def test_a_link_that_leads_to_itself_is_a_path_too(tmp_path):
    loop = tmp_path / "loop.png"
    loop.symlink_to("loop.png")
    (tmp_path / "link").symlink_to(tmp_path)
    assert real_path(tmp_path / "link" / "loop.png") == tmp_path.resolve() / "loop.png"
