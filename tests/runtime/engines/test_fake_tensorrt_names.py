"""The fake TensorRT has the names of the real one, and refuses what that refuses."""

import inspect

import numpy as np
import pytest

import fake_tensorrt
from fake_cuda import FakeDriver
from fake_process import DYNAMIC, NEWEST, RANGE, Trt, graph
from fake_tensorrt import BEHAVIOUR, UnwrittenError, make, read_api

every_version = pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)


@every_version
def test_names_are_those_of_the_real_bindings(version):
    module, api = make(version, FakeDriver()), read_api(version)
    for name, members in api["enums"].items():
        owner, _, inner = name.rpartition(".")
        kind = getattr(getattr(module, owner), inner) if owner else getattr(module, inner)
        assert sorted(kind.__members__) == sorted(members)
    for name, members in api["classes"].items():
        public = {member for member in dir(getattr(module, name)) if not member.startswith("_")}
        assert public == {member for member in members if not member.startswith("_")}, name
    added = {name for name in vars(module) if not name.startswith("_")} - set(api["module"])
    assert added <= {*api["enums"], *api["classes"]}


def parameters_of(form):
    """The overloads of a method, {all names}, {those without default}."""
    overloads = form if form and isinstance(form[0], list) else [form]
    return [([name.rstrip("=") for name in names], [name for name in names if name[-1] != "="]) for names in overloads]


@every_version
def test_written_methods_take_the_parameters_of_the_real_ones(version):
    for name, members in read_api(version)["classes"].items():
        for member, form in members.items():
            written = vars(BEHAVIOUR[name]).get(member) if name in BEHAVIOUR else None
            if not inspect.isfunction(written) or not isinstance(form, list) or member == "__getitem__":
                continue
            mine = [each for each in inspect.signature(written).parameters.values() if each.name != "self"]
            if any(each.kind is each.VAR_POSITIONAL for each in mine):
                continue  # overloads that are told apart by hand
            needed = [each.name for each in mine if each.default is each.empty]
            known = [each.name for each in mine]
            fits = [
                set(wanted) >= set(needed) and known[: len(names)] == names for names, wanted in parameters_of(form)
            ]
            assert any(fits), f"{version} {name}.{member}: {known} is written, {form} is real"


def test_nothing_is_written_that_is_real_in_no_version():
    real = {}
    for version in fake_tensorrt.VERSIONS:
        for name, members in read_api(version)["classes"].items():
            real.setdefault(name, set()).update(members)
    for name, kind in BEHAVIOUR.items():
        invented = {member for member in vars(kind) if not member.startswith("_")} - real[name]
        assert not invented, (name, invented)


@pytest.mark.parametrize(
    ("version", "path"),
    [
        (NEWEST, "BuilderFlag.FP16"),
        (NEWEST, "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"),
        (NEWEST, "ICudaEngine.device_memory_size"),
        ("10.16.1.11", "ICudaEngine.num_bindings"),
        ("8.5.3.1", "IProgressMonitor"),
        ("8.5.3.1", "IBuilderConfig.builder_optimization_level"),
        ("8.5.3.1", "DataType.BF16"),
    ],
)
def test_what_a_version_does_not_have_is_an_attribute_error(version, path):
    thing = make(version, FakeDriver())
    *owners, name = path.split(".")
    for owner in owners:
        thing = getattr(thing, owner)
    with pytest.raises(AttributeError):
        getattr(thing, name)


def test_objects_take_no_new_attributes_and_unwritten_ones_say_so():
    trt = Trt()
    with pytest.raises(AttributeError, match="no attribute 'fp16_mode'"):
        trt.config.fp16_mode = True
    with pytest.raises(UnwrittenError, match=r"IBuilderConfig\.reset_device_type"):
        trt.config.reset_device_type(None)
    with pytest.raises(TypeError, match="No constructor"):
        trt.api.ICudaEngine()


# Refusals that can be compared with a real TensorRT: TensorRT-RTX builds without a GPU.


def refusals(trt):
    """What a TensorRT module of the newest style answers to wrong requests; no object of it is returned."""
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)

    def parse(model):
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        return parser.parse(model), network, parser

    def build(*profile, name="frames_in", monitor=None):
        network = parse(graph(DYNAMIC))[1]
        config = builder.create_builder_config()
        config.progress_monitor = monitor
        added = None
        if profile:
            made = builder.create_optimization_profile()
            made.set_shape(name, *profile)
            added = config.add_optimization_profile(made)
        return added, builder.build_serialized_network(network, config) is None

    class Cancel(trt.IProgressMonitor):
        def __init__(self):
            trt.IProgressMonitor.__init__(self)
            self.open = []

        def phase_start(self, phase_name, parent_phase, num_steps):
            self.open.append(phase_name)

        def step_complete(self, phase_name, step):
            return False

        def phase_finish(self, phase_name):
            self.open.remove(phase_name)

    class Forgetful(trt.IProgressMonitor):
        def __init__(self):
            pass

    cancel = Cancel()
    low, middle, high = RANGE
    parsed, _, parser = parse(graph(operator="Foo"))
    good = parse(graph(DYNAMIC))[1]
    shape = good.get_input(0).shape
    return {
        "unknown operator": (parsed, parser.num_errors, parser.get_error(0).code().name, parser.get_error(0).node()),
        "operator's name": (parser.get_error(0).node_operator(), "Plugin not found" in parser.get_error(0).desc()),
        "no profile": build(),
        "profile upside down": build(high, middle, low),
        "profile of another tensor": build(*RANGE, name="nothing"),
        "profile of other channels": build(*((*size[:3], 4) for size in RANGE)),
        "a good one": build(*RANGE),
        "cancelled": (build(*RANGE, monitor=cancel), cancel.open),
        "open sizes": (tuple(shape), shape == (-1, -1, -1, 3), isinstance(shape, tuple), len(shape)),
        "names": (good.get_input(0).name, good.get_output(0).name, good.num_inputs, good.num_outputs),
        "types": (good.get_input(0).dtype.name, good.get_output(0).dtype.name),
        "unknown network flag": builder.create_network(1 << 30) is None,
        "monitor without base": type(error_of(Forgetful)).__name__,
        "no monitor": type(error_of(setattr, builder.create_builder_config(), "progress_monitor", 3)).__name__,
        "new attribute": type(error_of(setattr, builder.create_builder_config(), "fp16", 1)).__name__,
        "dims with dims": type(error_of(lambda: shape == good.get_input(0).shape)).__name__,
        "weights across": type(error_of(trt.Weights, np.zeros((2, 3), np.float32).T)).__name__,
        "weights of doubles": type(error_of(trt.Weights, np.zeros(3))).__name__,
        "weights": (trt.Weights(np.zeros((2, 3), np.float16)).size, trt.Weights(np.zeros(2, np.float16)).nbytes),
        "numpy's type": trt.nptype(trt.DataType.HALF),
    }


def error_of(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return error
    return None


def test_refusals_are_those_of_tensorrt_rtx():
    real = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX, the real builder, is not installed")
    assert refusals(make(NEWEST, FakeDriver())) == refusals(real)
