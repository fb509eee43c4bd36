"""Announce that a public function or name will go, and make sure that it does.

    @deprecated(remove_in="0.3", use_instead="esrgan_deploy.images.read_image")
    def read_still(path): ...

A test (tests/test_deprecation.py) finds every `remove_in` in the sources and fails once that release is reached.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable[..., object])


def deprecated(*, remove_in: str, use_instead: str) -> Callable[[_Function], _Function]:
    """Decorate a function that will be removed: calls of it warn, see `warn_deprecated`."""

    def decorate(function: _Function) -> _Function:
        name = f"{function.__module__}.{function.__qualname__}"

        @functools.wraps(function)
        def warning(*args: object, **kwargs: object) -> object:
            warn_deprecated(name, remove_in=remove_in, use_instead=use_instead)
            return function(*args, **kwargs)

        return warning  # type: ignore[return-value]  # the signature is that of `function`

    return decorate


def warn_deprecated(name: str, *, remove_in: str, use_instead: str, stacklevel: int = 2) -> None:
    """Warn that `name` will be removed, for what is no function: a module's `__getattr__`, an argument, a value.

    Python's default filters show a DeprecationWarning once for each line of code that causes it.

    Args:
        name: what will be removed.
        remove_in: the first release without it, like "0.3".
        use_instead: what replaces it.
        stacklevel: see `warnings.warn`; 2 is whoever called the function that calls this one.
    """
    warnings.warn(
        f"{name} is deprecated and will be removed in {remove_in}; use {use_instead}",
        DeprecationWarning,
        stacklevel=stacklevel + 1,
    )


def is_reached(release: str, version: str) -> bool:
    """Whether `version` is `release` or later; a pre-release of it counts, so that nothing is forgotten."""
    ours, wanted = _numbers(version), _numbers(release)
    longest = max(len(ours), len(wanted))
    return ours + [0] * (longest - len(ours)) >= wanted + [0] * (longest - len(wanted))


def _numbers(version: str) -> list[int]:
    """The release of a version: "0.3.0rc1" -> [0, 3, 0]."""
    return [int(number) for number in re.findall(r"\d+", re.split(r"[a-z+]", version)[0])]
