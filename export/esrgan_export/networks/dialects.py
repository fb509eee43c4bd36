"""Translate the names that other code bases give to the same tensors into the names of this package.

| network   | dialect | written by                       | example of a key                       |
|-----------|---------|----------------------------------|----------------------------------------|
| RRDBNet   | old     | ESRGAN's first code, traiNNer    | model.1.sub.0.RDB1.conv1.0.weight      |
| RRDBNet   | middle  | BasicSR before 1.0, RRDB_trunk   | RRDB_trunk.0.RDB1.conv1.weight         |
| RRDBNet   | new     | BasicSR, Real-ESRGAN, this one   | body.0.rdb1.conv1.weight               |
| MSRResNet | middle  | BasicSR before 1.0, recon_trunk  | recon_trunk.0.conv1.weight             |
| MSRResNet | new     | BasicSR, this one                | body.0.conv1.weight                    |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")
Rename = Callable[[str], str]


def to_current(state: Mapping[str, Value]) -> dict[str, Value]:
    """`state` with the keys translated to the new dialect; keys of no known dialect stay as they are."""
    rename = _dialect_of(state)
    return {rename(key): value for key, value in state.items()}


def _dialect_of(keys: Iterable[str]) -> Rename:
    names = set(keys)
    if any(name.startswith("model.1.sub.") for name in names):
        return _from_old(names)
    if any(name.startswith("RRDB_trunk.") for name in names):
        return _from_middle_rrdbnet
    if any(name.startswith("recon_trunk.") for name in names):
        return _from_middle_msrresnet
    return lambda key: key


def _from_old(names: set[str]) -> Rename:
    """The old dialect numbers the layers of one nn.Sequential, so its names depend on the number of layers.

    model.0 is the first convolution and model.1 the trunk, whose last entry is the convolution before the long skip.
    Of the convolutions behind it, the last two are conv_hr and conv_last, and all others follow an upsampling step.
    """
    tail = sorted({int(m[1]) for name in names if (m := re.fullmatch(r"model\.(\d+)\.weight", name)) and m[1] != "0"})
    heads = {"model.0": "conv_first"}
    heads |= {f"model.{index}": f"conv_up{k}" for k, index in enumerate(tail[:-2], start=1)}
    heads |= dict(zip((f"model.{index}" for index in tail[-2:]), ("conv_hr", "conv_last"), strict=False))
    heads |= {m[0]: "conv_body" for name in names if (m := re.match(r"model\.1\.sub\.\d+(?=\.(weight|bias)$)", name))}

    def rename(key: str) -> str:
        if match := re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB(\d)\.(conv\d)\.0\.(weight|bias)", key):
            return "body.{}.rdb{}.{}.{}".format(*match.groups())
        head, _, kind = key.rpartition(".")
        return f"{heads[head]}.{kind}" if head in heads else key

    return rename


def _from_middle_rrdbnet(key: str) -> str:
    if match := re.fullmatch(r"RRDB_trunk\.(\d+)\.RDB(\d)\.(.+)", key):
        return "body.{}.rdb{}.{}".format(*match.groups())
    return re.sub(
        r"^(trunk_conv|upconv(?=\d)|HRconv)",
        lambda m: {"trunk_conv": "conv_body", "upconv": "conv_up", "HRconv": "conv_hr"}[m[1]],
        key,
    )


def _from_middle_msrresnet(key: str) -> str:
    return re.sub(r"^HRconv\.", "conv_hr.", re.sub(r"^recon_trunk\.", "body.", key))
