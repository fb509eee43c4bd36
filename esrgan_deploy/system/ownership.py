"""Who else could have written what lies in a folder.

What a folder holds is as trustworthy as everybody who can write to it: a check sum beside a file protects from a
damaged disk, not from whoever can replace both. Windows keeps who may do what in lists that Python does not read, and
folders of users are private there; so on Windows nothing is found here.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from esrgan_deploy.errors import OutputError

_LOG = logging.getLogger(__name__)
_ROOT = 0


def strangers(path: Path, *, any_owner: bool = False, handle: int | None = None) -> str | None:
    """Why others than this user and root could have written to a file or folder; None: they could not.

    A file system that keeps no owners, as those of memory sticks and some shares, tells nothing; that is logged once.

    Args:
        path: it exists. Of a link, both the link and what it points to are looked at.
        any_owner: whoever owns it is trusted too, since the user has named it.
        handle: the file, if it is open; then the path is used for messages only.
    """
    if sys.platform == "win32" or not hasattr(os, "geteuid"):
        return None
    statuses = [path.lstat(), path.stat()] if handle is None else [os.fstat(handle)]
    fault = _fault(statuses, any_owner=any_owner)
    if fault and not _keeps_owners(path if path.is_dir() else path.parent):
        _say_once(Path(os.path.realpath(path)).parent)
        return None
    return fault


def check_only_owner_writes(folder: Path) -> None:
    """Refuse a folder for engines and compiled models that others than its owner can write to: they are programs.

    The owner, whoever it is, is trusted, since the user names the folder, as one names a program to run.

    Raises:
        OutputError: others can write to it.
    """
    with contextlib.suppress(OSError):  # it does not exist, or nobody can use it
        if fault := strangers(folder, any_owner=True):
            raise OutputError(
                f"{folder}: {fault}, who could put any program there; name another folder, or if you know what is in "
                f"it: chmod -R go-w {folder}"
            )


def close_to_others(path: Path) -> None:
    """Let nobody but its owner write to a file, whatever the umask is; where that cannot be said, nothing is done."""
    with contextlib.suppress(OSError):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))


def _fault(statuses: Sequence[os.stat_result], *, any_owner: bool) -> str | None:
    """`statuses` of a link and what it points to, in this order, or of a file alone."""
    if sys.platform == "win32":
        return None
    owners = {status.st_uid for status in statuses} - {os.geteuid(), _ROOT}
    if owners and not any_owner:
        return f"belongs to another user ({_name(owners.pop())})"
    status = statuses[-1]
    by_all, by_group = status.st_mode & stat.S_IWOTH, status.st_mode & stat.S_IWGRP
    if by_all or (by_group and not _is_private_group(status.st_uid, status.st_gid)):
        return "can be written by other users"
    return None


def _keeps_owners(folder: Path) -> bool:
    """Whether a folder that is made here belongs to this user, who alone can write to it, as it should."""
    for place in (folder, folder.parent):
        probe = place / f".esrgan-{secrets.token_hex(8)}"
        try:
            probe.mkdir(mode=0o700)
        except OSError:
            continue
        try:
            return _fault([probe.stat()], any_owner=False) is None
        finally:
            probe.rmdir()
    return True


@functools.cache
def _say_once(folder: Path) -> None:
    _LOG.warning("%s: its file system keeps no owners of files, so all who can reach it are trusted", folder)


def _is_private_group(uid: int, gid: int) -> bool:
    """Whether a group is the one that many systems make for each user alone, so that it adds nobody."""
    if sys.platform == "win32":
        return False
    try:
        import grp
        import pwd

        owner, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except (ImportError, KeyError):
        return False
    return owner.pw_gid == gid and group.gr_name == owner.pw_name and set(group.gr_mem) <= {owner.pw_name}


def _name(uid: int) -> str:
    if sys.platform == "win32":
        return str(uid)
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)
