"""Locks are held by one, gone with whoever dies, and no obstacle where there are none."""

import errno
import logging
import os
import subprocess
import sys
import threading
import time

import filelock
import pytest

from esrgan_deploy import OutputError
from esrgan_deploy.system import locks
from esrgan_deploy.system.locks import locked, locked_if_free

HOLDER = """
import sys, time
from pathlib import Path
from esrgan_deploy.system.locks import locked
with locked(Path(sys.argv[1]), lambda: print("waits", flush=True)):
    print("holds", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / ".lock"


def hold(lock, seconds):
    """Another process, which has the lock when this returns."""
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "holds\n"
    return child


def test_another_process_is_waited_for_and_that_is_said_once(lock):
    said = []
    with hold(lock, 0.5) as child:
        with locked(lock, lambda: said.append(child.poll())):
            assert child.wait(timeout=20) == 0
        assert said == [None], "once, while the other one was at work"
    assert not lock.exists()


def test_a_lock_that_is_taken_is_not_waited_for(lock):
    with hold(lock, 60) as child:
        with locked_if_free(lock) as free:
            assert not free
        assert lock.exists(), "the other one's"
        child.kill()
    with locked_if_free(lock) as free:
        assert free


@pytest.mark.unix("kills a process at once")
def test_the_lock_of_a_dead_process_is_gone_with_it(lock):
    with hold(lock, 60) as child:
        child.kill()
        child.wait()
        assert lock.exists(), "it had no time to remove it"
        with locked(lock, lambda: pytest.fail("waits for the dead")):
            pass
    assert not lock.exists()


def test_threads_wait_for_each_other_too(lock):
    order = []

    def work():
        with locked(lock, lambda: order.append("waits")):
            order.append("second")

    with locked(lock, lambda: pytest.fail("nobody holds it")):
        thread = threading.Thread(target=work)
        thread.start()
        while not order:
            time.sleep(0.01)
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["waits", "first", "second"]


def test_what_fails_inside_gives_the_lock_up(lock):
    with pytest.raises(KeyboardInterrupt), locked(lock, lambda: None):
        raise KeyboardInterrupt
    with locked_if_free(lock) as free:
        assert free


@pytest.mark.linux("calls flock")
@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_once_and_used(lock, monkeypatch, caplog, answer):
    import fcntl

    def flock(file, operation):
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(fcntl, "flock", flock)
    locks._warn.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with locked(lock, lambda: pytest.fail("nobody holds it")), locked_if_free(lock) as free:
                assert free
    assert [record.message for record in caplog.records] == [
        f"{lock.parent}: its file system has no locks; run one process at a time there"
    ]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match=r"file: cannot be written: .*; choose another folder"):
        locked(tmp_path / "file" / ".lock", lambda: None).__enter__()


def test_soft_locks_are_never_used_where_there_are_better_ones(lock):
    assert not isinstance(locks._lock(lock), filelock.SoftFileLock)


@pytest.mark.unix("makes links")
def test_a_link_is_no_lock(lock, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    lock.symlink_to(victim)
    with pytest.raises(OutputError, match=r"\.lock: is a link, where a lock belongs; remove it"):
        locked_if_free(lock).__enter__()
    assert victim.read_text() == "precious"
    assert lock.is_symlink()
    lock.unlink()
    with locked_if_free(lock) as free:
        assert free
