"""Engines that are only looked at: bytes that pass for a plan, with a sidecar that fits them."""

import datetime
import hashlib
import json
import types
from pathlib import Path

from esrgan_deploy import ModelInfo
from esrgan_deploy.alpha import endpoints_path
from esrgan_deploy.cuda.gpu import DeviceFacts
from esrgan_deploy.engine.machine import Machine
from esrgan_deploy.engine.options import EngineOptions, Profile, Shape
from esrgan_deploy.engine.store.cache import engine_key
from esrgan_deploy.engine.store.folder import EngineFolder
from esrgan_deploy.engine.store.sidecar import EngineFile, Sidecar, sidecar_beside, write_sidecar

H200 = Machine("NVIDIA H200", (9, 0), "580.159.03", "TensorRT 10.13.3.9")
FACTS = DeviceFacts("NVIDIA H200", (9, 0), "580.159.03", 13000, 1 << 37)
FULL = types.SimpleNamespace(name="TensorRT", version="10.13.3.9", portable=False)
OPTIONS = EngineOptions(Profile.fixed(1, 16, 24))
DYNAMIC = Profile(Shape(1, 8, 8), Shape(1, 16, 24), Shape(1, 32, 32))
PLAN = b"ftrt" + bytes(400)


def plant(folder, *, machine=H200, profile=OPTIONS.profile, model_sha256="a" * 64, data=PLAN, **options):
    options = EngineOptions(profile, **options)
    key = engine_key(model_sha256, machine, options)
    engine = EngineFolder(folder).engine_path(Path("net.onnx"), options, machine, key)
    folder.mkdir(exist_ok=True)
    engine.write_bytes(data)
    endpoints = b"endpoints" if options.refit else None
    if endpoints:
        endpoints_path(engine).write_bytes(endpoints)
    sidecar = Sidecar(
        key=key,
        model="net.onnx",
        model_sha256=model_sha256,
        info=ModelInfo(scale=4),
        options=options,
        machine=machine,
        plan_sha256=hashlib.sha256(data).hexdigest(),
        plan_bytes=len(data),
        ends_sha256=endpoints and hashlib.sha256(endpoints).hexdigest(),
        seconds=1.5,
        built=datetime.datetime(2026, 11, 1, 12, tzinfo=datetime.timezone.utc),
        notes=("a note",),
        created_by="test",
    )
    write_sidecar(engine, sidecar)
    return EngineFile(engine, sidecar)


def truncate(engine):
    engine.path.write_bytes(engine.path.read_bytes()[:-100])


def edit_sidecar(engine, **changes):
    beside = sidecar_beside(engine.path)
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **changes}))


def names(folder):
    return sorted(path.name for path in folder.iterdir())
