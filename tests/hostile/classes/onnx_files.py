"""ONNX: graphs without an end, sizes and metadata that lie, data outside of the file."""

import json

import numpy as np

from hostile.case import BAD_INPUT, REFUSED, Case, Command, Output
from hostile.seeds import SIZE, network

BACKENDS = ("ort", "openvino")


def upscaled(shop, model, codes=None, backend=None, commands=None):
    """The command for one picture with a model that is in the folder."""
    shop.seed("rgb.png", "in.png")
    command = Command(["esrgan-upscale", "in.png", "-o", "out.png", "-m", model, "-b", backend or shop.pick(BACKENDS)])
    command.codes = codes or command.codes
    width, height = SIZE
    return Case("", [command], [Output("out.png", "picture", size=(4 * width, 4 * height))])


def write(shop, model, name="net.onnx"):
    """The file of a model."""
    return shop.write(name, model.SerializeToString())


def good_nodes():
    """What repeats pixels four times."""
    from onnx import helper

    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[range(3), range(3)] = 1
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["same"]),
        helper.make_node("Resize", ["same", "", "scales"], ["output"], mode="nearest"),
    ]
    return nodes, {"kernel": kernel, "scales": np.array([1, 1, 4, 4], np.float32)}


def good(shop):
    """Nothing is wrong."""
    return upscaled(shop, shop.seed("nearest.onnx", "net.onnx"), frozenset({0}))


def claims(shop):
    """Metadata that say something else than the network does."""
    values = {
        "scale": ["2", "1", "3", "1000", "0", "-4", "4.0", "99999999999999999999", "", "\x1b[2J", "\u0664"],
        "multiple_of": ["4096", "0", "-1", "1000000", "3", "2147483648"],
        "overlap": ["999999999", "-1", "nan", "1" * 400],
        "precision": ["fp64", "int8", "\x1b]0;owned\x07", ""],
        "alpha": ["nan", "inf", "1e999", "-3", "x"],
        "format": ["2", "", None],
        "arch": ["[" * 100_000, '{"a":' * 5000, "null", "[]", '"\x1b[2J"', "{" + '"a":1,' * 9999 + '"b":2}', "NaN"],
    }
    key = shop.pick(values)
    nodes, weights = good_nodes()
    model = network(nodes, weights, {key: shop.pick(values[key])})
    return upscaled(shop, write(shop, model))


def wrong_scale(shop):
    """A network that enlarges four times says two, or a thousand."""
    nodes, weights = good_nodes()
    model = network(nodes, weights, {"scale": shop.pick(["2", "1000", "1", "8"])})
    return upscaled(shop, write(shop, model), REFUSED)


def multiple_of(shop):
    """28x20 pixels would be padded to 4096x4096."""
    nodes, weights = good_nodes()
    return upscaled(shop, write(shop, network(nodes, weights, {"multiple_of": shop.pick(["4096", "65536"])})), REFUSED)


def wrong_shape(shop):
    """The output is of a fixed size, whatever goes in."""
    from onnx import helper

    nodes, weights = good_nodes()
    nodes[1] = helper.make_node("Resize", ["same", "", "", "sizes"], ["output"], mode="nearest")
    weights["sizes"] = np.array(
        shop.pick([[1, 3, 80, 1], [1, 3, 1, 1], [1, 3, 64, 97], [1, 3, 20000, 20000]]), np.int64
    )
    return upscaled(shop, write(shop, network(nodes, weights, {})), REFUSED)


def endless_loop(shop):
    """A Loop of 2^62 trips, or one inside the other."""
    from onnx import TensorProto, helper

    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Mul", ["x", "x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    nodes, weights = good_nodes()
    weights |= {"trips": np.array(2**62), "yes": np.array(True)}
    nodes[1].input[0] = "looped"
    nodes.insert(1, helper.make_node("Loop", ["trips", "yes", "same"], ["looped"], body=body))
    return upscaled(shop, write(shop, network(nodes, weights, {})), REFUSED)


def huge_constants(shop):
    """A few bytes that ask for terabytes: ConstantOfShape, Expand, Tile, Range, Pad, OneHot."""
    from onnx import helper

    nodes, weights = good_nodes()
    size = shop.pick([2**31, 2**40, 10**12, 2**62])
    kind = shop.pick(["ConstantOfShape", "Tile", "Expand", "Range", "Pad"])
    weights["size"] = np.array([1, 1, 1, size], np.int64)
    if kind == "ConstantOfShape":
        made = [helper.make_node(kind, ["size"], ["big"])]
    elif kind == "Range":
        weights |= {"from": np.array(0.0, np.float32), "to": np.array(float(size), np.float32)}
        weights["step"] = np.array(1.0, np.float32)
        made = [helper.make_node(kind, ["from", "to", "step"], ["big"])]
    elif kind == "Pad":
        weights["pads"] = np.array([0, 0, 0, 0, 0, 0, 0, size], np.int64)
        made = [helper.make_node(kind, ["same", "pads"], ["big"])]
    else:
        made = [helper.make_node(kind, ["same", "size"], ["big"])]
    made += [
        helper.make_node("ReduceMax", ["big"], ["most"], keepdims=0),
        helper.make_node("Add", ["same", "most"], ["s2"]),
    ]
    nodes[1].input[0] = "s2"
    nodes[1:1] = made
    return upscaled(shop, write(shop, network(nodes, weights, {})), REFUSED)


def billion_laughs(shop):
    """Each layer doubles the size."""
    from onnx import helper

    nodes, weights = good_nodes()
    name = "same"
    for n in range(shop.pick([20, 30, 40])):
        nodes.insert(-1, helper.make_node("Concat", [name, name], [f"c{n}"], axis=shop.pick([2, 3])))
        name = f"c{n}"
    nodes[-1].input[0] = name
    return upscaled(shop, write(shop, network(nodes, weights, {})), REFUSED)


def many_nodes(shop):
    """Tens of thousands of layers."""
    from onnx import helper

    nodes, weights = good_nodes()
    name = "same"
    for n in range(30_000):
        nodes.insert(-1, helper.make_node("Identity", [name], [f"i{n}"]))
        name = f"i{n}"
    nodes[-1].input[0] = name
    return upscaled(shop, write(shop, network(nodes, weights, {})))


def external_data(shop):
    """Weights outside of the file: a neighbour, the password file, a device, a pipe."""
    import os

    from onnx import TensorProto

    nodes, weights = good_nodes()
    model = network(nodes, weights, {})
    shop.write("weights.bin", np.eye(3, dtype=np.float32).tobytes())
    os.mkfifo(shop.folder / "pipe")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    where = shop.pick(["weights.bin", "../weights.bin", "/etc/passwd", "/dev/zero", "pipe", "", "\x1b[2J"])
    for key, value in (("location", where), ("offset", "0"), ("length", "36")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return upscaled(shop, write(shop, model), BAD_INPUT)


def unknown_operators(shop):
    """Operators of nobody, of other domains, that call Python, that read strings."""
    from onnx import helper

    nodes, weights = good_nodes()
    name, domain = shop.pick(
        [("PyOp", "ai.onnx.contrib"), ("Nothing", ""), ("\x1b[2J", ""), ("FusedConv", "com.microsoft")]
    )
    nodes[1].input[0] = "strange"
    nodes.insert(
        1, helper.make_node(name, ["same"], ["strange"], domain=domain, name=shop.pick(["", "\x1b]0;owned\x07"]))
    )
    model = network(nodes, weights, {})
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    return upscaled(shop, write(shop, model), BAD_INPUT)


def broken_graph(shop):
    """Circles, inputs of nobody, two of one name, no nodes, types that do not fit, a hundred inputs."""
    from onnx import TensorProto, helper

    nodes, weights = good_nodes()
    model = network(nodes, weights, {})
    graph = model.graph
    kind = shop.pick(["circle", "nobody", "twice", "empty", "type", "inputs", "rank", "opset", "ir", "axes", "names"])
    if kind == "circle":
        graph.node[0].input[0] = "output"
    elif kind == "nobody":
        graph.node[1].input[0] = "\x1b[2J nobody"
    elif kind == "twice":
        graph.node.append(graph.node[1])
    elif kind == "empty":
        del graph.node[:]
    elif kind == "type":
        graph.input[0].type.tensor_type.elem_type = shop.pick([0, 8, 99, TensorProto.INT64])
    elif kind == "inputs":
        graph.input.extend(helper.make_tensor_value_info(f"in{n}", 1, [1]) for n in range(100))
    elif kind == "rank":
        graph.input[0].type.tensor_type.shape.dim.extend([graph.input[0].type.tensor_type.shape.dim[0]] * 5)
    elif kind == "opset":
        model.opset_import[0].version = shop.pick([0, 1, 9999, -1, 2**62])
    elif kind == "ir":
        model.ir_version = shop.pick([0, 2**40, -1])
    elif kind == "axes":
        graph.input[0].type.tensor_type.shape.dim[2].dim_value = shop.pick([-1, 2**40, 7, 0])
    else:
        graph.input[0].name = graph.node[0].input[0] = shop.pick(["", "\x1b[2J", "x" * 100_000])
    return upscaled(shop, write(shop, model))


def tensors(shop):
    """Tensors whose sizes and bytes disagree, are negative, or are full of NaN."""
    nodes, weights = good_nodes()
    model = network(nodes, weights, {})
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == "kernel")
    kind = shop.pick(["dims", "negative", "short", "nan", "type", "huge"])
    if kind == "dims":
        kernel.dims[0] = shop.pick([4, 0, 2**31, 2**62])
    elif kind == "negative":
        kernel.dims[1] = -3
    elif kind == "short":
        kernel.raw_data = kernel.raw_data[: shop.pick([0, 1, 35])]
    elif kind == "nan":
        kernel.raw_data = np.full(9, np.nan, np.float32).tobytes()
    elif kind == "type":
        kernel.data_type = shop.pick([0, 8, 11, 77, 16])
    else:
        kernel.dims[:] = [3, 3, 2**20, 2**20]
    return upscaled(shop, write(shop, model))


def deep_nesting(shop):
    """Branches inside branches."""
    from onnx import GraphProto, ModelProto, helper

    inner = GraphProto()
    for _ in range(shop.pick([10, 20, 28])):
        outer = GraphProto()
        node = helper.make_node("If", ["c"], ["o"])
        node.attribute.append(helper.make_attribute("then_branch", inner))
        outer.node.append(node)
        inner = outer
    model = ModelProto()
    model.ir_version = 8
    model.graph.CopyFrom(inner)
    return upscaled(shop, shop.write("net.onnx", model.SerializeToString()), BAD_INPUT)


def no_model(shop):
    """Something else under that name."""
    contents = [b"", b"\0", b"hello", b"\x08\x08", bytes(10_000), b"\xff" * 5000, json.dumps({"a": 1}).encode()]
    contents += [shop.seeds.path(name).read_bytes() for name in ("rgb.png", "a.mp4")]
    return upscaled(shop, shop.write("net.onnx", shop.pick(contents)), BAD_INPUT)


def other_commands(shop):
    """The same files for esrgan-bench, esrgan-engine, esrgan-eval."""
    shop.pick([claims, wrong_shape, broken_graph, tensors, external_data, unknown_operators])(shop)
    words = shop.pick(
        [
            ["esrgan-bench", "-m", "net.onnx", "-b", "ort", "--shapes", "16x16", "--seconds", "0.1"],
            ["esrgan-bench", "-m", "net.onnx", "--expect", "1"],
            ["esrgan-engine", "net.onnx", "--shape", "16x16"],
        ]
    )
    return Case("", [Command(words)])


def mutated(shop):
    """Random damage of a small network."""
    return upscaled_any(shop, shop.mutated("nearest.onnx", "net.onnx"))


def upscaled_any(shop, model):
    """As `upscaled`; damage may have made it another valid network, of another scale."""
    case = upscaled(shop, model)
    case.outputs[0].size = None
    return case


IDEAS = [
    good,
    claims,
    wrong_scale,
    multiple_of,
    wrong_shape,
    endless_loop,
    huge_constants,
    billion_laughs,
    many_nodes,
    external_data,
    unknown_operators,
    broken_graph,
    tensors,
    deep_nesting,
    no_model,
    other_commands,
]
