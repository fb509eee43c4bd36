"""The sidecar of a plan: a JSON file beside it that says what it was built for, and holds its check sum.

A plan is a program for one GPU. TensorRT checks little of it: a truncated plan, or another file under its name, can end
in a segmentation fault. So each `X.engine` has an `X.engine.json`, which is written after it, and TensorRT gets a plan
only if it agrees with its sidecar.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esrgan_deploy.alpha import endpoints_path
from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.budget import TEXT_BYTES, opened, read_bytes
from esrgan_deploy.engine.machine import Machine
from esrgan_deploy.engine.options import EngineOptions
from esrgan_deploy.errors import ModelError, OptionError
from esrgan_deploy.frame_io import LARGEST
from esrgan_deploy.model import ModelInfo
from esrgan_deploy.system.files import replacing
from esrgan_deploy.system.ownership import close_to_others, strangers

SIDECAR_FORMAT = 1
"""Part of every engine's key. Raise it when the sidecar changes, or the graph that `frame_graph` makes."""
_MAGIC = (b"ftrt", b"vtrt")
"""First bytes of a plan of TensorRT and of TensorRT-RTX."""


@dataclass(frozen=True)
class Sidecar:
    """The description of one plan."""

    key: str
    """SHA-256 over everything that decides the plan; see `EngineCache`."""
    model: str
    """File name of the ONNX file."""
    model_sha256: str
    """SHA-256 of the ONNX file."""
    info: ModelInfo
    """What the ONNX file says of itself."""
    options: EngineOptions
    """As built: a dynamic profile may have become smaller, or static; then `notes` say so."""
    machine: Machine
    plan_sha256: str
    plan_bytes: int
    ends_sha256: str | None
    """SHA-256 of the file beside the plan with the weights at alpha 0 and 1; None: the engine cannot be refitted."""
    seconds: float
    """How long the build took."""
    built: datetime.datetime
    """When it was finished, UTC."""
    notes: tuple[str, ...]
    """What the user should know about the build, one line each."""
    created_by: str

    def to_json(self) -> dict[str, Any]:
        """Values for the JSON file."""
        return {
            "format": SIDECAR_FORMAT,
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "info": {**self.info.to_metadata(), "fixed_size": self.info.fixed_size},
            "options": self.options.to_json(),
            "machine": dataclasses.asdict(self.machine),
            "built": self.built.isoformat(timespec="seconds"),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], source: Path) -> Sidecar:
        """Read back what `to_json` gave, from the file `source`.

        Raises:
            ModelError: the file is damaged, or was written by another version of this program.
        """
        try:
            if content["format"] != SIDECAR_FORMAT:
                raise ModelError(
                    f"{source}: is of format {content['format']!r}, this version reads {SIDECAR_FORMAT}; "
                    "build the engine again with esrgan-engine"
                )
            return cls(
                key=_text(content["key"]),
                model=_text(content["model"]),
                model_sha256=_text(content["model_sha256"]),
                info=_info(content["info"], content["model_sha256"], source),
                options=_options(content["options"]),
                machine=_machine(**content["machine"]),
                plan_sha256=_text(content["plan_sha256"]),
                plan_bytes=int(content["plan_bytes"]),
                ends_sha256=None if content["ends_sha256"] is None else _text(content["ends_sha256"]),
                seconds=float(content["seconds"]),
                built=datetime.datetime.fromisoformat(content["built"]),
                notes=tuple(map(_text, content["notes"])),
                created_by=_text(content["created_by"]),
            )
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, OptionError) as error:
            text = f"{type(error).__name__}: {error}"
            raise ModelError(f"{source}: is damaged ({text}); build the engine again with esrgan-engine") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _options(content: dict[str, Any]) -> EngineOptions:
    options = EngineOptions.from_json(content)
    if options.frames not in LARGEST:
        raise ValueError(f"frames are {options.frames!r}")
    return options


def _machine(gpu: str, compute_capability: Sequence[int], driver: str, library: str) -> Machine:
    major, minor = compute_capability
    return Machine(_text(gpu), (int(major), int(minor)), _text(driver), _text(library))


def _info(content: Mapping[str, Any], model_sha256: str, source: Path) -> ModelInfo:
    metadata = dict(content)
    size = metadata.pop("fixed_size")
    fixed_size = None if size is None else (int(size[0]), int(size[1]))
    info = ModelInfo.from_metadata(metadata, str(source))
    return dataclasses.replace(info, fixed_size=fixed_size, file_sha256=model_sha256)


@dataclass(frozen=True)
class EngineFile:
    """A plan on the disk, of which only the sidecar has been read."""

    path: Path
    sidecar: Sidecar

    @property
    def endpoints(self) -> Path:
        """The file with the weights at alpha 0 and 1; it exists where the engine can be refitted."""
        return endpoints_path(self.path)

    def read(self) -> bytes:
        """Read the plan, and compare it with the sidecar.

        Raises:
            ModelError: it cannot be read, is truncated or damaged, or is no plan.
        """
        plan = _read(self.path)
        if len(plan) != self.sidecar.plan_bytes or hashlib.sha256(plan).hexdigest() != self.sidecar.plan_sha256:
            raise ModelError(f"{self.path}: {self._fault(plan)}; build it again with esrgan-engine")
        return plan

    def verify(self) -> None:
        """Compare the plan, and the weights of the endpoints, with the sidecar.

        Raises:
            ModelError: a file is missing or differs.
        """
        self.read()
        if self.sidecar.ends_sha256 and hashlib.sha256(_read(self.endpoints)).hexdigest() != self.sidecar.ends_sha256:
            raise ModelError(
                f"{self.endpoints}: is not the file that the engine came with; copy it again or build again"
            )

    def _fault(self, plan: bytes) -> str:
        wanted = self.sidecar.plan_bytes
        if not plan.startswith(_MAGIC):
            return f"is no TensorRT engine, it begins with {plan[:8]!r}"
        if len(plan) != wanted:
            return f"has {len(plan)} of {wanted} bytes, it is {'truncated' if len(plan) < wanted else 'damaged'}"
        return "is damaged or another engine, its SHA-256 differs from the one in its sidecar"


def sidecar_beside(engine: Path) -> Path:
    """`x.engine` -> `x.engine.json`."""
    return engine.with_name(f"{engine.name}.json")


def write_sidecar(engine: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of a plan that is complete on the disk.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(sidecar_beside(engine)) as partial:
        partial.write_text(json.dumps(sidecar.to_json(), indent=1) + "\n", encoding="utf-8", newline="\n")
        close_to_others(partial)


def open_engine(path: StrPath) -> EngineFile:
    """Open an engine by reading its sidecar.

    Raises:
        ModelError: no such file, no engine, or its sidecar is missing or damaged; or others than their owner can write
            to one of them, or to their folder.
    """
    path = as_path(path)
    _check_trusted(path)
    try:
        with opened(path, ModelError) as file:
            start = file.read(len(_MAGIC[0]))
    except ModelError as error:
        raise ModelError(f"{error}; build it with: esrgan-engine MODEL.onnx") from error
    beside = sidecar_beside(path)
    if not beside.exists():
        if start not in _MAGIC:
            raise ModelError(f"{path}: is no TensorRT engine; build one with: esrgan-engine MODEL.onnx")
        raise ModelError(
            f"{path}: {beside.name} is missing beside it, which says what it was built for; copy that file as "
            "well, or build the engine here with: esrgan-engine MODEL.onnx"
        )
    try:
        content = json.loads(read_bytes(beside, ModelError, TEXT_BYTES))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{beside}: is damaged ({error}); build the engine again with esrgan-engine") from error
    return EngineFile(path, Sidecar.from_json(content, beside))


def _check_trusted(engine: Path) -> None:
    """The owner of an engine that somebody names is trusted, as that of any program is, and nobody else.

    Raises:
        ModelError: others can write to it.
    """
    for path in (engine, sidecar_beside(engine), engine.absolute().parent):
        with contextlib.suppress(OSError):  # it does not exist, which is said elsewhere
            if fault := strangers(path, any_owner=True):
                raise ModelError(
                    f"{path}: {fault}, and an engine is a program; build it with: esrgan-engine MODEL.onnx, or copy "
                    "both files into a folder of yours, if you know that they are right"
                )


def check_machine(engine: EngineFile, machine: Machine) -> None:
    """Make sure that an engine was built for this machine.

    Raises:
        ModelError: GPU, driver or TensorRT differ.
    """
    theirs = engine.sidecar.machine
    if theirs != machine:
        raise ModelError(
            f"{engine.path}: was built for {theirs}, and this is {machine}; build one here with: "
            f"esrgan-engine {engine.sidecar.model}"
        )


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path, ModelError)
    except ModelError as error:
        raise ModelError(f"{error}; build the engine again") from error
