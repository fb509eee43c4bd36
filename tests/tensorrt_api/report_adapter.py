"""Print what `esrgan_deploy.engine.adapter.TensorRT` makes of a module, and how it fails without a driver, as JSON."""

import importlib
import json
import sys

from esrgan_deploy.engine.adapter import TensorRT
from esrgan_deploy.engine.options import EngineOptions, Profile
from esrgan_deploy.errors import EsrganError

SETTINGS = {"optimization_level": 4, "tiling": "fast", "aux_streams": 1, "workspace_mib": 64, "refit": True}


def failure(call, *arguments):
    try:
        call(*arguments)
    except EsrganError as error:
        return [type(error).__name__, str(error)]
    return None


def refusal(setting):
    return failure(trt.check, EngineOptions(Profile.fixed(1, 64, 64), **{setting: SETTINGS[setting]}))


trt = TensorRT(importlib.import_module(sys.argv[1]))
report = {
    "name": trt.name,
    "version": trt.version,
    "strongly typed": trt.strongly_typed,
    "portable": trt.portable,
    "refused": {setting: refusal(setting) for setting in SETTINGS if refusal(setting)},
    "builder": failure(trt.create_builder),
    "runtime": failure(trt.create_runtime),
}
print(json.dumps(report))  # noqa: T201  # read by test_adapter.py
