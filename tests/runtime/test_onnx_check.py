"""Files that claim to be networks: each is refused in one line, before any backend sees it."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from esrgan_deploy import ModelInfo, open_session
from esrgan_deploy.backends.int8 import int8_path
from esrgan_deploy.errors import ModelError
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import MODELS
from esrgan_deploy.onnx_check import OPERATORS, SHAPED_BY_ALL, SHAPED_BY_LATER
from tiny_onnx import write_onnx

ONES = np.ones((3, 3, 1, 1), np.float32)
DOUBLE = helper.make_node("Resize", ["input", "", "scales"], ["output"], mode="nearest")
SCALES = np.array([1, 1, 2, 2], np.float32)


def saved(folder, model):
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def network(nodes, initialisers=(), *, info=None, shape=(1, 3, "H", "W")):
    """A model that `onnx.checker` need not like; names of tensors are free."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, "H_out", "W_out"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(initialisers).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, info.to_metadata() if info else {})
    return model


def doubling(info=None):
    return network([DOUBLE], {"scales": SCALES}, info=info)


def refused(folder, model, match):
    path = saved(folder, model)
    with pytest.raises(ModelError, match=match) as caught:
        load_onnx(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 800
    return message


def test_every_operator_of_the_lists_is_onnx_own():
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert known >= OPERATORS >= SHAPED_BY_ALL | SHAPED_BY_LATER
    assert OPERATORS.isdisjoint({"If", "Loop", "Scan", "RandomNormal", "SequenceAt", "Optional", "ImageDecoder"})


# --- weights ---


def test_weights_in_another_file_are_refused_and_the_remedy_helps(tmp_path, monkeypatch):
    """A backend would look for them in the current folder; and they are outside of the hash of the model."""
    monkeypatch.chdir(tmp_path)
    model = network(
        [helper.make_node("Conv", ["input", "w"], ["c"]), DOUBLE],
        {"w": ONES, "scales": SCALES},
    )
    model.graph.node[1].input[0] = "c"
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(
        ModelError, match=r"keeps the weights 'w' in another file, 'weights.bin'; make it one"
    ) as caught:
        load_onnx(path)
    exec(str(caught.value).split('python -c "')[1].rstrip('"'))
    assert load_onnx(tmp_path / "whole.onnx")[1].scale == 2


def test_weights_in_a_node_are_looked_at_too(tmp_path):
    model = network([helper.make_node("Constant", [], ["scales"], value=numpy_helper.from_array(SCALES)), DOUBLE])
    assert load_onnx(saved(tmp_path, model))[1].scale == 2
    tensor = model.graph.node[0].attribute[0].t
    tensor.ClearField("raw_data")
    onnx.external_data_helper.set_external_data(_with_raw(tensor), "/etc/hostname")
    refused(tmp_path, model, "in another file, '/etc/hostname'")


def _with_raw(tensor):
    tensor.raw_data = b"\0" * 16
    return tensor


@pytest.mark.parametrize(
    ("dims", "says"),
    [
        ([1 << 40], r"holds 16 bytes and claims 4398046511104"),
        ([5], "holds 16 bytes and claims 20"),
        ([3], "holds 16 bytes and claims 12"),
        ([-4, -1], "has dimensions"),
        ([1] * 16 + [4], "has dimensions"),
    ],
)
def test_a_tensor_holds_what_it_claims(tmp_path, dims, says):
    model = doubling()
    tensor = model.graph.initializer[0]
    del tensor.dims[:]
    tensor.dims.extend(dims)
    refused(tmp_path, model, says)


def test_values_outside_raw_data_are_counted_too(tmp_path):
    model = doubling()
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2]))
    assert load_onnx(saved(tmp_path, model))[1].scale == 2
    tensor.dims[0] = 1 << 40
    refused(tmp_path, model, "holds 4 values and claims")


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.COMPLEX64, 0, 99])
def test_tensors_are_of_numbers(tmp_path, kind):
    model = doubling()
    model.graph.initializer[0].data_type = kind
    refused(tmp_path, model, f"has the type {kind}")


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bfloat16"])
def test_weights_that_are_no_numbers_are_refused(tmp_path, dtype):
    import ml_dtypes

    values = np.ones(100).astype(getattr(ml_dtypes, dtype, dtype))
    model = doubling()
    model.graph.initializer.append(numpy_helper.from_array(values, "w"))
    load_onnx(saved(tmp_path, model))
    values[50] = -np.inf  # what masks of attention hold
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(values, "w"))
    load_onnx(saved(tmp_path, model))
    values[50] = np.nan
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(values, "w"))
    refused(tmp_path, model, r"'w' hold values that are not numbers")


# --- operators ---


def test_a_loop_is_refused(tmp_path):
    """2**62 rounds never end."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    nodes = [helper.make_node("Loop", ["trips", "", "input"], ["x"], body=body, name="for ever"), DOUBLE]
    model = network(nodes, {"trips": np.int64(2**62), "scales": SCALES}, info=ModelInfo(scale=2))
    refused(tmp_path, model, r"node 'for ever' is of the type Loop")


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (helper.make_node("RandomNormalLike", ["input"], ["x"]), "type RandomNormalLike"),
        (helper.make_node("SequenceConstruct", ["input"], ["x"]), "type SequenceConstruct"),
        (helper.make_node("Relu", ["input"], ["x"], domain="com.example"), r"type com.example.Relu"),
        (helper.make_node("Relu", ["input"], []), "has no output"),
        (helper.make_node("Relu", ["nowhere"], ["x"]), "reads 'nowhere' before"),
        (helper.make_node("Relu", ["output"], ["x"]), "reads 'output' before"),
        (helper.make_node("Relu", ["input"], ["scales"]), "called 'scales'"),
        (helper.make_node("Relu", ["input"], ["x" * 5000]), "5000 characters"),
        (helper.make_node("Conv", ["input", "w"], ["x"], strides=[0, 1]), "has strides 0"),
        (helper.make_node("Conv", ["input", "w"], ["x"], pads=[1 << 30] * 4), "has pads 1073741824"),
        (helper.make_node("DepthToSpace", ["input"], ["x"], blocksize=0), "has blocksize 0"),
        (
            helper.make_node("Relu", ["input"], ["x"], extra=helper.make_graph([], "g", [], [])),
            "holds a network of its own",
        ),
    ],
)
def test_a_node_that_no_upscaling_network_has_is_refused(tmp_path, node, says):
    refused(tmp_path, network([node, DOUBLE], {"scales": SCALES, "w": ONES}, info=ModelInfo(scale=2)), says)


def test_networks_are_of_a_size_that_networks_have(tmp_path, monkeypatch):
    monkeypatch.setattr("esrgan_deploy.onnx_check.MOST_NODES", 10)
    monkeypatch.setattr("esrgan_deploy.onnx_check.MOST_NAMES", 200)
    relu = helper.make_node("Relu", ["input"], ["x"])
    refused(tmp_path, network([relu] * 10 + [DOUBLE], {"scales": SCALES}), "has 11 nodes")
    refused(tmp_path, network([DOUBLE], dict.fromkeys(["scales", *"abcdefghij"], SCALES)), "11 weights")
    refused(
        tmp_path,
        network([helper.make_node("Sum", ["input"] * 200, ["x"]), DOUBLE], {"scales": SCALES}),
        "more than 200",
    )
    many = doubling()
    many.graph.value_info.extend([helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])] * 201)
    refused(tmp_path, many, "201 declared shapes")


def chain(length, kind="Relu"):
    names = ["input", *(f"t{n}" for n in range(length))]
    nodes = [helper.make_node(kind, [names[n], *(["w"] * (kind == "Conv"))], [names[n + 1]]) for n in range(length)]
    return network([*nodes, DOUBLE], {"scales": SCALES, "w": ONES})


def test_networks_are_of_a_depth_that_can_be_compiled(tmp_path):
    """OpenVINO takes minutes for 10,000 nodes one behind the other, or 5,000 that read one tensor."""
    load_onnx(saved(tmp_path, chain(5000)))
    refused(tmp_path, chain(6001), "at node 't6000' there are more than 6000 nodes one behind the other")
    refused(tmp_path, chain(2501, "Conv"), "more than 2500 convolutions")
    beside = [helper.make_node("Relu", ["input"], [f"t{n}"]) for n in range(501)]
    refused(tmp_path, network([*beside, DOUBLE], {"scales": SCALES}), "or 500 side by side")
    constants = [helper.make_node("Add", ["scales", "scales"], [f"t{n}"]) for n in range(600)]
    load_onnx(saved(tmp_path, network([*constants, DOUBLE], {"scales": SCALES})))


def test_what_is_not_for_inference_is_refused(tmp_path):
    training = doubling()
    training.training_info.add()
    refused(tmp_path, training, "steps of training")
    sparse = doubling()
    sparse.graph.sparse_initializer.add()
    refused(tmp_path, sparse, "sparse weights")
    constant = network([helper.make_node("Constant", [], ["c"]), DOUBLE], {"scales": SCALES})
    constant.graph.node[0].attribute.add(name="sparse_value").sparse_tensor.dims.append(1 << 40)
    refused(tmp_path, constant, "'sparse_value' in a form for others")


def test_operators_are_of_one_version(tmp_path):
    for versions in ([], [17, 18], [-3], [1 << 40]):
        model = doubling()
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid("", version) for version in versions)
        refused(tmp_path, model, "names the versions")


def test_some_node_makes_the_output(tmp_path):
    refused(tmp_path, network([helper.make_node("Relu", ["input"], ["x"])]), "no node makes the output 'output'")


def test_names_are_of_a_length_that_can_be_shown(tmp_path):
    refused(
        tmp_path,
        network([helper.make_node("Relu", ["input"], ["x"], name="n" * 5000), DOUBLE], {"scales": SCALES}),
        "name of 5000",
    )
    refused(tmp_path, network([DOUBLE], {"scales": SCALES, "w" * 5000: SCALES}), "the tensor 'w")


@pytest.mark.parametrize(
    "name", ["esrgan.format", "created", "H_out", "g-name", "input", "scales", "node-name", "Resize", "mode", "unused"]
)
def test_names_are_text(tmp_path, name):
    model = doubling(ModelInfo(scale=2, created_by="created"))
    model.graph.name, model.graph.node[0].name = "g-name", "node-name"
    model.graph.value_info.add(name="unused")
    path = saved(tmp_path, model)
    load_onnx(path)
    path.write_bytes(path.read_bytes().replace(name.encode(), b"\xff" * len(name)))
    with pytest.raises(ModelError, match=r"holds a name that is no text|is not an ONNX file"):
        load_onnx(path)


def test_functions_of_a_file_are_refused_and_the_remedy_helps(tmp_path, monkeypatch):
    """Twenty functions, each of which calls the next one twice, are a million nodes."""
    monkeypatch.chdir(tmp_path)
    model = network([helper.make_node("Twice", ["input"], ["output"], domain="mine")])
    body = [
        helper.make_node("Constant", [], ["scales"], value=numpy_helper.from_array(SCALES)),
        helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest"),
    ]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "Twice", ["x"], ["y"], body, opsets))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    message = refused(tmp_path, model, r"defines functions of its own \('Twice'\)")
    exec(message.split('python -c "')[1].rstrip('"'))
    assert load_onnx(tmp_path / "flat.onnx")[1].scale == 2


def test_sizes_come_from_sizes_and_not_from_pixels(tmp_path):
    """One bright pixel would decide on terabytes."""
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["bright"], axes=[0, 1, 2, 3], keepdims=0),
        helper.make_node("Cast", ["bright"], ["n"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["n", "first"], ["shape"]),
        helper.make_node("Expand", ["input", "shape"], ["x"], name="blow up"),
        DOUBLE,
    ]
    weights = {"scales": SCALES, "first": np.array([0])}
    refused(
        tmp_path, network(nodes, weights, info=ModelInfo(scale=2)), r"'blow up' \(Expand\) takes a size out of the pix"
    )
    nodes[:1] = [
        helper.make_node("Shape", ["input"], ["all"]),
        helper.make_node("ReduceMax", ["all"], ["bright"], axes=[0], keepdims=0),
    ]
    assert load_onnx(saved(tmp_path, network(nodes, weights)))[1].scale == 2


@pytest.mark.parametrize(
    ("node", "constant"),
    [
        (helper.make_node("Expand", ["input", "c"], ["x"]), [100_000, 3, 64, 128]),
        (helper.make_node("Tile", ["input", "c"], ["x"]), [1, 1, 100_000, 1]),
        (helper.make_node("ConstantOfShape", ["c"], ["x"]), [1 << 20, 1 << 20]),
        (helper.make_node("Pad", ["input", "c"], ["x"]), [0, 0, 1 << 19, 1 << 19] * 2),
        (helper.make_node("Resize", ["input", "", "", "c"], ["x"]), [1, 3, 1 << 20, 1 << 20]),
    ],
)
def test_no_tensor_is_out_of_all_proportion(tmp_path, node, constant):
    """The result is an ordinary picture, whatever lies beside it."""
    model = network([node, DOUBLE], {"scales": SCALES, "c": np.array(constant)}, info=ModelInfo(scale=2))
    refused(tmp_path, model, r"makes a tensor of [0-9x]+ \('x'\) for an image of 128x64")


# --- what the metadata says ---


@pytest.mark.parametrize("scale", [1, 3, 4])
def test_the_scale_is_what_the_network_does(tmp_path, scale):
    assert load_onnx(saved(tmp_path, doubling(ModelInfo(scale=2))))[1].scale == 2
    refused(tmp_path, doubling(ModelInfo(scale=scale)), rf"gives 1x3x128x256 for a 128x64 .* metadata says x{scale}")


def test_one_right_size_is_not_enough(tmp_path):
    node = helper.make_node("Resize", ["input", "", "", "sizes"], ["output"], mode="nearest")
    for info in (None, ModelInfo(scale=2)):
        model = network([node], {"sizes": np.array([1, 3, 128, 256])}, info=info)
        refused(tmp_path, model, "gives 1x3x128x256 for a 64x192 image")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("scale", "1000", "impossible .* scale 1000"),
        ("scale", "0", "impossible .* scale 0"),
        ("scale", "9" * 5000, "damaged"),
        ("multiple_of", "4096", "multiple_of 4096"),
        ("overlap", "1000000000", "overlap 1000000000"),
        ("overlap", "-1", "overlap -1"),
        ("alpha", "nan", "alpha nan"),
        ("alpha", "1.5", "alpha 1.5"),
        ("precision", "fp8", "precision fp8"),
        ("arch", "[" * 60_000, "damaged .*nested too deeply"),
        ("arch", "[]", "damaged .*arch is a list"),
        ("arch", "{", "damaged"),
        ("created_by", "x" * 100_000, "created_by has 100000 characters"),
    ],
)
def test_impossible_metadata_is_refused(tmp_path, key, value, says):
    model = doubling(ModelInfo(scale=2, overlap=2, alpha=0.5, arch={"name": "n"}, created_by="me"))
    next(entry for entry in model.metadata_props if entry.key == f"esrgan.{key}").value = value
    refused(tmp_path, model, says)


def test_a_network_takes_one_image_of_any_size_or_of_one(tmp_path):
    for shape in ((9_999_999_999, 3, "H", "W"), (4, 3, "H", "W")):
        refused(tmp_path, network([DOUBLE], {"scales": SCALES}, shape=shape), f"takes {shape[0]} images at a time only")
    refused(tmp_path, network([DOUBLE], {"scales": SCALES}, shape=(1, 3, 64, "W")), "takes images of anyx64 only")
    refused(
        tmp_path, network([DOUBLE], {"scales": SCALES}, shape=(1, 3, 1 << 40, 8)), "takes images of 8x1099511627776"
    )
    fixed = network([DOUBLE], {"scales": SCALES}, shape=(1, 3, 10, 7))
    assert load_onnx(saved(tmp_path, fixed))[1].fixed_size == (10, 7)
    helper.set_model_props(fixed, ModelInfo(scale=2, multiple_of=2).to_metadata())
    refused(tmp_path, fixed, "no multiples|multiples of 2")


def test_a_scale_that_no_metadata_names_has_a_limit_too(tmp_path):
    for factor in (64, 65):
        model = network([DOUBLE], {"scales": np.array([1, 1, factor, factor], np.float32)})
        if factor == 64:
            assert load_onnx(saved(tmp_path, model))[1].scale == 64
        else:
            refused(tmp_path, model, "enlarges 65 times; 64 times is the most")


def test_one_image_goes_in_and_one_comes_out(tmp_path):
    model = doubling(ModelInfo(scale=2))
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 3, "H", "W"]))
    refused(tmp_path, model, "has 2 inputs and 1 outputs")
    model = doubling(ModelInfo(scale=2))
    model.graph.output.append(model.graph.input[0])
    refused(tmp_path, model, "has 1 inputs and 2 outputs")
    del model.graph.output[:]
    refused(tmp_path, model, "has 1 inputs and 0 outputs")


# --- files ---


@pytest.mark.unix("named pipes")
def test_a_pipe_is_no_model(tmp_path):
    import os

    os.mkfifo(path := tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="is a pipe"):
        open_session(path)


def test_the_bundled_models_pass():
    for model in MODELS.values():
        for path in (model.onnx, int8_path(model.onnx)):
            assert json.loads(json.dumps(load_onnx(path)[1].arch))


def test_weights_that_old_files_list_as_inputs_are_no_images(tmp_path):
    path = write_onnx(
        tmp_path / "net.onnx",
        [helper.make_node("Conv", ["input", "w"], ["c"]), helper.make_node("Resize", ["c", "", "scales"], ["output"])],
        {"w": ONES, "scales": SCALES},
    )
    model = onnx.load(path)
    model.graph.input.insert(0, helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 3, 1, 1]))
    assert load_onnx(saved(tmp_path, model))[1].scale == 2
