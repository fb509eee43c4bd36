"""Caches and engines are trusted because nobody else can write to their folder, and never otherwise."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from esrgan_deploy import ModelError, OutputError, open_session
from esrgan_deploy.backends import saved_choices
from esrgan_deploy.cli.engine import main
from esrgan_deploy.engine.store.folder import EngineFolder
from esrgan_deploy.engine.store.sidecar import open_engine, sidecar_beside
from esrgan_deploy.models import COMPACT_CLEAN
from esrgan_deploy.system import ownership, paths
from esrgan_deploy.system.own_folder import make_folder
from esrgan_deploy.system.ownership import strangers
from esrgan_deploy.system.paths import make_user_cache, user_cache, user_cache_or_temporary, writable_cache

sys.path.insert(0, str(Path(__file__).parent / "engines"))

pytestmark = pytest.mark.unix("makes modes and owners")
NOBODY = 65534


def only_root():
    if os.geteuid() != 0:
        pytest.skip("only root may give files to another user")


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths.temporary_cache.cache_clear()
    yield tmp_path / "cache"
    paths.temporary_cache.cache_clear()


# --- who could have written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "words"), [(0o700, None), (0o755, None), (0o757, "can be written by other users")])
def test_what_all_can_write_is_found(tmp_path, mode, words):
    tmp_path.chmod(mode)
    assert strangers(tmp_path) == words
    assert strangers(tmp_path, any_owner=True) == words


def test_what_a_group_can_write_is_found_unless_it_adds_nobody(tmp_path, monkeypatch):
    tmp_path.chmod(0o770)
    monkeypatch.setattr(ownership, "_is_private_group", lambda uid, gid: False)
    assert strangers(tmp_path) == "can be written by other users"
    monkeypatch.undo()
    import grp
    import pwd

    user = pwd.getpwuid(os.geteuid())
    private = grp.getgrgid(user.pw_gid).gr_name == user.pw_name and not grp.getgrgid(user.pw_gid).gr_mem
    assert (strangers(tmp_path) is None) == private


def test_the_folder_of_another_user_is_found(tmp_path):
    only_root()
    os.chown(tmp_path, NOBODY, NOBODY)
    assert strangers(tmp_path) == "belongs to another user (nobody)"
    assert strangers(tmp_path, any_owner=True) is None
    link = tmp_path.with_name("link")
    link.symlink_to(make_private(tmp_path.with_name("mine")))
    assert strangers(link) is None
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    assert strangers(link) == "belongs to another user (nobody)"


def make_private(path):
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def test_a_file_system_that_keeps_no_owners_is_used_and_that_is_said_once(tmp_path, monkeypatch, caplog):
    """As memory sticks do: everything there looks as if all could write it, whatever one asks for."""
    real = os.stat_result

    def all_open(path, *, follow_symlinks=True):
        status = os.stat(path, follow_symlinks=follow_symlinks)  # noqa: PTH116
        return real((status.st_mode | 0o777, *status[1:10]))

    monkeypatch.setattr(Path, "stat", all_open)
    monkeypatch.setattr(Path, "lstat", lambda path: all_open(path, follow_symlinks=False))
    ownership._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert strangers(tmp_path) is None
        assert strangers(tmp_path) is None
    assert [record.message for record in caplog.records] == [
        f"{tmp_path.parent}: its file system keeps no owners of files, so all who can reach it are trusted"
    ]
    assert list(tmp_path.iterdir()) == []


def test_an_own_folder_stays_itself_when_its_name_is_given_to_another(tmp_path):
    folder = make_folder(tmp_path / "mine")
    folder.mark()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "a").write_text("precious")
    (tmp_path / "mine").rename(tmp_path / "moved")
    (tmp_path / "mine").symlink_to(tmp_path / "victim")
    assert not folder.is_in_place()
    with folder.open("a", "wb") as file:
        file.write(b"ours")
    folder.rename("a", "b")
    folder.remove(["b", "a"])
    folder.close()
    assert (tmp_path / "victim" / "a").read_text() == "precious"


# --- the user's cache -------------------------------------------------------------------------------------------------


def test_the_cache_is_made_for_this_user_alone(home):
    before = os.umask(0)
    try:
        folder = make_user_cache("engines")
    finally:
        os.umask(before)
    assert [place.stat().st_mode & 0o777 for place in (folder, folder.parent)] == [0o700, 0o700]


@pytest.mark.parametrize("place", ["esrgan-deploy", "esrgan-deploy/engines"])
def test_a_cache_that_others_can_write_is_not_used_until_its_remedy_is(home, caplog, capsys, place):
    make_user_cache("engines")
    (home / place).chmod(0o777)
    with pytest.raises(OutputError, match=r"can be written by other users, so .*; set XDG_CACHE_HOME .*chmod -R go-w"):
        user_cache("engines")
    with caplog.at_level(logging.WARNING):
        for folder in (writable_cache("engines"), user_cache_or_temporary("engines")):
            assert not folder.is_relative_to(home)
    assert len(caplog.records) == 1
    assert main(["--list"]) == 2
    assert "chmod -R go-w" in capsys.readouterr().err
    subprocess.run(["chmod", "-R", "go-w", home / place], check=True)
    assert writable_cache("engines") == home / "esrgan-deploy" / "engines"


def test_the_cache_of_another_user_is_not_used(home):
    only_root()
    for folder in [make_user_cache(name) for name in ("", "engines", "tuning")]:
        os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(OutputError, match=r"belongs to another user \(nobody\), so what is in it cannot be trusted"):
        user_cache("tuning")
    assert saved_choices.recall(COMPACT_CLEAN, "auto") is None


def test_a_choice_in_an_open_folder_is_not_taken(home):
    from test_tuning import OV, choice_of

    path = saved_choices.remember(COMPACT_CLEAN, "auto", choice_of(OV))
    assert saved_choices.recall(COMPACT_CLEAN, "auto")
    path.parent.chmod(0o777)
    assert saved_choices.recall(COMPACT_CLEAN, "auto") is None


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"question": {}}', "", '{"question": 1e999}', f'{{"question": {"9" * 5000}}}']
)
def test_a_choice_that_nobody_writes_counts_as_missing(home, text):
    from test_tuning import OV, choice_of

    saved_choices.remember(COMPACT_CLEAN, "auto", choice_of(OV)).write_text(text)
    assert saved_choices.recall(COMPACT_CLEAN, "auto") is None


@pytest.mark.parametrize("kind", ["file", "loop", "dangling", "too long"])
def test_odd_places_for_a_cache_are_no_obstacle(tmp_path, monkeypatch, kind):
    odd = tmp_path / ("x" * 300 if kind == "too long" else "odd")
    if kind == "file":
        odd.write_text("mine")
    elif kind != "too long":
        odd.symlink_to(odd if kind == "loop" else tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(odd))
    paths.temporary_cache.cache_clear()
    assert not writable_cache("engines").is_relative_to(tmp_path)
    paths.temporary_cache.cache_clear()
    assert saved_choices.recall(COMPACT_CLEAN, "auto") is None


# --- engines ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path):
    from planted_engines import plant

    return plant(tmp_path / "engines").path


def test_an_engine_of_any_owner_is_opened(engine):
    assert open_engine(engine).path == engine
    if os.geteuid() == 0:
        for path in (engine, sidecar_beside(engine), engine.parent):
            os.chown(path, NOBODY, NOBODY)
        assert open_engine(engine).path == engine


@pytest.mark.parametrize("which", ["engine", "sidecar", "folder"])
def test_an_engine_that_others_can_write_is_not_opened_until_its_remedy_is(engine, tmp_path, which):
    path = {"engine": engine, "sidecar": sidecar_beside(engine), "folder": engine.parent}[which]
    path.chmod(0o777)
    with pytest.raises(ModelError, match=r"can be written by other users, and an engine is a program; build .*or copy"):
        open_engine(engine)
    make_private(tmp_path / "mine")
    for file in (engine, sidecar_beside(engine)):
        shutil.copyfile(file, tmp_path / "mine" / file.name)
    assert open_engine(tmp_path / "mine" / engine.name)


def test_a_folder_of_engines_that_others_can_write_is_refused(engine, capsys):
    engine.parent.chmod(0o777)
    with pytest.raises(OutputError, match="can be written by other users, who could put any program there"):
        EngineFolder(engine.parent).engines()
    assert main(["--list", "--cache", str(engine.parent)]) == 2
    with pytest.raises(OutputError, match="who could put any program there"):
        open_session(COMPACT_CLEAN, "ort", cache=engine.parent)
    engine.parent.chmod(0o755)
    open_session(COMPACT_CLEAN, "ort", cache=engine.parent).close()


def test_a_folder_of_engines_is_open_to_no_writer_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        EngineFolder(tmp_path / "engines").make()
    finally:
        os.umask(before)
    assert (tmp_path / "engines").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("text", ["[" * 200_000, "{" * 9, '{"format": 1e400}'])
def test_a_sidecar_that_nobody_writes_is_damaged(engine, text):
    sidecar_beside(engine).write_text(text)
    with pytest.raises(ModelError, match=r"damaged|format"):
        open_engine(engine)


def test_a_pipe_for_a_sidecar_is_not_waited_for(engine):
    sidecar_beside(engine).unlink()
    os.mkfifo(sidecar_beside(engine))
    with pytest.raises(ModelError, match="is a pipe"):
        open_engine(engine)


def test_half_of_a_mark_does_not_stay(tmp_path, monkeypatch):
    """Else nobody would know the folder again: no run would use it, and none would remove it."""
    with make_folder(tmp_path / "out.mkv.parts") as folder:
        monkeypatch.setattr(os, "fsync", lambda _handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            folder.mark()
        assert folder.names() == []
        monkeypatch.undo()
        folder.mark()
        assert folder.is_marked()
