"""ICC profiles: whether one is whole, as libpng and other readers want it."""

from __future__ import annotations

import struct

_HEAD, _ENTRY = 132, 12
_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac", b"nmcl")


def is_whole_profile(profile: bytes) -> bool:
    """Whether the head and the list of contents of a profile are right (ICC.1:2022, 7.2 and 7.3).

    Encoders refuse what is not, after all has been computed; viewers ignore it.
    """
    if len(profile) < _HEAD or struct.unpack_from(">I", profile)[0] != len(profile) or profile[36:40] != b"acsp":
        return False
    if profile[12:16] not in _CLASSES or profile[20:24] not in (b"XYZ ", b"Lab ") or profile[64:66] != b"\0\0":
        return False
    if profile[8] > 3 and len(profile) % 4:
        return False
    number = struct.unpack_from(">I", profile, 128)[0]
    if number > (len(profile) - _HEAD) // _ENTRY:
        return False
    entries = (struct.unpack_from(">4sII", profile, _HEAD + _ENTRY * index) for index in range(number))
    return all(begin + size <= len(profile) for _, begin, size in entries)


def is_for(profile: bytes, *, grey: bool) -> bool:
    """Whether a profile describes values of this kind."""
    return profile[16:20] == (b"GRAY" if grey else b"RGB ")
