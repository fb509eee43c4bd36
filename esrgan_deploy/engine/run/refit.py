"""Give an engine new weights without a build, so that alpha can be changed while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from esrgan_deploy.engine.adapter import TensorRT
from esrgan_deploy.errors import MachineError, ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

DATA_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
"""numpy's name of a type -> TensorRT's."""
NAMED = 3
"""At most so many weights are named in a message; an engine may miss hundreds."""
REBUILD = "build the engine again, with refit"


def refit(
    trt: TensorRT,
    engine: Any,  # noqa: ANN401  # TensorRT has no types
    weights: Mapping[str, npt.NDArray[Any]],
    constants: Mapping[str, npt.NDArray[Any]] | None = None,
) -> None:
    """Exchange the weights of a deserialised engine.

    Its execution contexts stay valid, but CUDA graphs that were captured from them keep the old weights. Everything is
    checked before any weight is exchanged. Only if TensorRT's own refit then fails (MachineError "failed to exchange
    weights") may the engine hold a mixture of old and new ones.

    Args:
        trt: the TensorRT that deserialised the engine.
        engine: built with refit; it must not be at work.
        weights: all weights of the network by initialiser, in the graph's types and shapes: `Endpoints.graph_weights`.
            TensorRT wants the types that the network was built with, which in every version are those of the graph;
            8.5 cannot be asked for them.
        constants: by initialiser, what alpha does not change: `Endpoints.graph_constants`. TensorRT wants a constant
            again if it combined it with weights.

    Raises:
        ModelError: the engine was built without refit, or from another network.
        MachineError: TensorRT does not know one of the types, or its refit failed.
    """
    if not engine.refittable:
        raise ModelError(f"the engine was built without refit, so that its alpha is fixed; {REBUILD}")
    trt.take_errors()
    refitter = trt.module.Refitter(engine, trt.logger)
    # TensorRT reads these arrays during the refit, but does not keep them alive.
    held = _give(trt, refitter, weights)
    missing = set(refitter.get_missing_weights())
    held += _give(trt, refitter, {name: values for name, values in (constants or {}).items() if name in missing})
    missing = set(refitter.get_missing_weights())
    if missing:
        raise ModelError(f"the engine also wants {_some(missing)}, which its endpoints do not hold; {REBUILD}")
    if not refitter.refit_cuda_engine():
        raise MachineError(f"{trt} failed to exchange weights: {trt.take_reason()}; load the engine again")
    del held


def _give(trt: TensorRT, refitter: Any, weights: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:  # noqa: ANN401
    """Pass the new values to `refitter`; the returned arrays must live until the refit is done."""
    held: list[npt.NDArray[Any]] = []
    refused = []
    for name, values in weights.items():
        held.append(np.ravel(values))
        if not refitter.set_named_weights(name, _viewed(trt, held[-1])):
            refused.append(name)
    if refused:
        raise ModelError(f"the engine does not take {_some(refused)}: {trt.take_reason()}; {REBUILD}")
    return held


def _viewed(trt: TensorRT, array: npt.NDArray[Any]) -> Any:  # noqa: ANN401
    """TensorRT's view of a contiguous array, without a copy."""
    data_type = getattr(trt.module.DataType, DATA_TYPES[array.dtype.name], None)
    if data_type is None:
        raise MachineError(f"{trt} does not know {array.dtype.name}; export the model as fp16, or use version 10")
    try:
        # By address, since the bindings do not know numpy's bfloat16.
        return trt.module.Weights(data_type, array.ctypes.data, array.size)
    except TypeError:
        return trt.module.Weights(array)  # all that 8.5 takes


def _some(names: list[str] | set[str]) -> str:
    """The first few names."""
    shown = ", ".join(f"'{name}'" for name in sorted(names)[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more weights"
