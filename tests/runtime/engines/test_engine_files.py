"""What lies in a folder of engines: sidecars, engines that users name, finding one for a shape, pruning."""

import dataclasses
import datetime
import json
import threading
import time
import types
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esrgan_deploy import MachineError, ModelError, ModelInfo
from esrgan_deploy.alpha import endpoints_path
from esrgan_deploy.engine.machine import Machine, this_machine
from esrgan_deploy.engine.options import EngineOptions, Profile, Shape
from esrgan_deploy.engine.store.cache import EngineCache
from esrgan_deploy.engine.store.folder import EngineFolder
from esrgan_deploy.engine.store.sidecar import (
    Sidecar,
    check_machine,
    open_engine,
    sidecar_beside,
)
from esrgan_deploy.system.locks import locked
from planted_engines import DYNAMIC, FACTS, FULL, H200, PLAN, names, plant, truncate

# Engines that users name


def test_an_engine_with_its_sidecar_is_opened_wherever_it_lies(tmp_path):
    planted = plant(tmp_path / "cache")
    for path in (planted.path, sidecar_beside(planted.path)):
        path.rename(tmp_path / path.name.replace(planted.path.name, "mine.engine"))
    engine = open_engine(tmp_path / "mine.engine")
    assert engine.sidecar == planted.sidecar
    assert engine.read() == PLAN
    assert engine.sidecar.info.file_sha256 == "a" * 64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"x\.engine: cannot be read: No such file"),
        (b"just text", r"x\.engine: is no TensorRT engine; build one with: esrgan-engine"),
        (b"", r"x\.engine: is no TensorRT engine"),
        (b"ftrt made by trtexec", r"x\.engine: x\.engine\.json is missing beside it.*; copy that file"),
    ],
)
def test_what_is_no_engine_of_ours_is_not_opened(tmp_path, content, words):
    path = tmp_path / "x.engine"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        open_engine(path)


def test_a_folder_is_no_engine(tmp_path):
    with pytest.raises(ModelError, match="is a folder; name a file; build it with: esrgan-engine"):
        open_engine(tmp_path)


def test_another_engine_under_the_name_is_noticed(tmp_path):
    engine, other = plant(tmp_path), plant(tmp_path, profile=DYNAMIC, data=PLAN[:-1] + b"!")
    other.path.rename(engine.path)
    with pytest.raises(ModelError, match="SHA-256 differs from the one in its sidecar; build it again"):
        open_engine(engine.path).read()


@pytest.mark.parametrize(
    "change",
    [{"gpu": "NVIDIA H100", "compute_capability": (8, 9)}, {"driver": "570.1"}, {"library": "TensorRT 11.4.0.106"}],
    ids=lambda change: next(iter(change)),
)
def test_an_engine_of_another_machine_is_refused_with_both_named(tmp_path, change):
    theirs = dataclasses.replace(H200, **change)
    engine = plant(tmp_path, machine=theirs)
    check_machine(engine, theirs)
    with pytest.raises(ModelError) as refusal:
        check_machine(engine, H200)
    message = str(refusal.value)
    assert message.startswith(f"{engine.path}: was built for ")
    for part in (str(theirs), str(H200), "esrgan-engine net.onnx", str(next(iter(change.values())))):
        assert part in message


def test_a_plan_for_one_gpu_needs_a_gpu(tmp_path):
    assert this_machine(FULL, FACTS) == H200
    with pytest.raises(MachineError, match=r"TensorRT 10\.13\.3\.9 builds engines for one GPU, and none is known here"):
        this_machine(FULL, None)


TEXT = st.text(max_size=9)
SIDES = st.integers(1, 99)
SIDECARS = st.builds(
    Sidecar,
    key=TEXT,
    model=TEXT,
    model_sha256=TEXT,
    info=st.builds(
        ModelInfo,
        scale=st.integers(1, 64),
        alpha=st.none() | st.floats(0, 1),
        fixed_size=st.none() | st.tuples(SIDES, SIDES),
    ),
    options=st.builds(EngineOptions, st.builds(Profile.fixed, SIDES, SIDES, SIDES), refit=st.booleans()),
    machine=st.builds(Machine, TEXT, st.tuples(SIDES, SIDES), TEXT, TEXT),
    plan_sha256=TEXT,
    plan_bytes=SIDES,
    ends_sha256=st.none() | TEXT,
    seconds=st.floats(0, 1e6),
    built=st.datetimes(timezones=st.just(datetime.timezone.utc)).map(lambda time: time.replace(microsecond=0)),
    notes=st.lists(TEXT).map(tuple),
    created_by=TEXT,
)
JSON = (
    st.none()
    | st.integers(-1, 2)
    | TEXT
    | st.lists(st.integers(), max_size=3)
    | st.sampled_from([{"x": []}, float("inf")])
)


@given(SIDECARS)
def test_a_sidecar_is_read_as_it_was_written(sidecar):
    assert Sidecar.from_json(json.loads(json.dumps(sidecar.to_json())), Path("s")) == sidecar


@settings(max_examples=400)
@given(SIDECARS, st.data())
def test_a_sidecar_with_a_wrong_value_is_read_or_refused_but_nothing_else(sidecar, data):
    content = json.loads(json.dumps(sidecar.to_json()))
    dicts = [content, content["info"], content["options"], content["machine"]]
    inner, name = data.draw(st.sampled_from([(inner, name) for inner in dicts for name in inner]))
    inner[name] = data.draw(JSON)
    try:
        read = Sidecar.from_json(content, Path("some.json"))
    except ModelError as error:
        message = str(error)
    else:
        message = f"some.json: {read.options.label()} {read.machine} {read.built:%Y}"
    assert message.startswith("some.json: ")


# Finding one for a shape


def find(folder, shape, *, trt=FULL, sha256="a" * 64, frames="uint8", refit=False):
    return EngineCache(folder).find(trt, FACTS, sha256, shape, frames, refit)


def test_the_engine_for_exactly_this_shape_is_preferred_then_the_nearest_dynamic_one(tmp_path):
    shape = Shape(2, 16, 16)
    assert find(tmp_path, shape) is None
    wide = plant(tmp_path, profile=Profile(Shape(1, 8, 8), Shape(4, 64, 64), Shape(4, 99, 99)))
    assert find(tmp_path, shape) == wide
    near = plant(tmp_path, profile=Profile(Shape(1, 8, 8), Shape(2, 16, 24), Shape(4, 32, 32)))
    assert find(tmp_path, shape) == near
    exact = plant(tmp_path, profile=Profile.fixed(2, 16, 16))
    assert find(tmp_path, shape) == exact
    assert find(tmp_path, Shape(4, 99, 99)) == wide
    assert find(tmp_path, Shape(4, 100, 99)) is None
    exact.path.write_bytes(b"ftrt damaged")
    assert find(tmp_path, shape) == near


def test_no_engine_is_found_for_what_it_was_not_built_for(tmp_path):
    plant(tmp_path)
    shape = Shape(1, 16, 24)
    assert find(tmp_path, shape)
    assert find(tmp_path, shape, sha256="b" * 64) is None
    assert find(tmp_path, shape, frames="uint16") is None
    assert find(tmp_path, shape, refit=True) is None
    assert find(tmp_path, shape, trt=types.SimpleNamespace(name="TensorRT", version="11.4", portable=False)) is None
    refittable = plant(tmp_path, refit=True)
    assert find(tmp_path, shape, refit=True) == refittable
    endpoints_path(refittable.path).write_bytes(b"other endpoints")
    assert find(tmp_path, shape, refit=True) is None


# The lock


def test_one_at_a_time_holds_a_lock_whose_file_is_removed_each_time(tmp_path):
    inside, together = [], []

    def work():
        for _ in range(40):
            with locked(tmp_path / ".lock", lambda: None):
                inside.append(1)
                time.sleep(0.0002)
                together.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1] * 240
    assert names(tmp_path) == []


# Pruning

NOT_OURS = ["mine.engine", "mine.engine.json", "notes.txt", "net.onnx", ".hidden.lock", "x.ends.safetensors"]


@pytest.fixture
def crowded(tmp_path):
    """A folder with an engine of each kind; what each is, by the name of its file."""
    for name in NOT_OURS:
        (tmp_path / name).write_text("not ours")
    good = plant(tmp_path, refit=True)
    foreign = plant(tmp_path, machine=dataclasses.replace(H200, driver="570.1"))
    broken = plant(tmp_path, profile=DYNAMIC)
    truncate(broken)
    orphan = plant(tmp_path, frames="uint16")
    orphan.path.unlink()
    half = tmp_path / f".{good.path.stem[:-12]}0123456789ab.01234567.part.engine"
    half.write_bytes(bytes(1000))
    (tmp_path / ".0123456789ab.lock").touch()
    for machine in (H200, foreign.sidecar.machine):
        EngineFolder(tmp_path).timing_path(machine).write_bytes(b"timings")
    timing = EngineFolder(tmp_path).timing_path(H200)
    timing.with_name(f".{timing.stem}.01234567.part.timing").write_bytes(b"half")
    return types.SimpleNamespace(folder=tmp_path, good=good, foreign=foreign, broken=broken, orphan=orphan, half=half)


def of(engine):
    """Names of an engine's files."""
    return {engine.path.name, f"{engine.path.name}.json"}


def test_pruning_removes_what_nobody_will_use_and_nothing_else(crowded):
    timing = EngineFolder(crowded.folder).timing_path(H200).name
    before = sum(path.stat().st_size for path in crowded.folder.iterdir())
    pruned = EngineCache(crowded.folder).prune(H200)
    why = {removed.path.name: removed.why for removed in pruned.removed}
    assert "driver 570.1" in why[crowded.foreign.path.name]
    assert "truncated" in why[crowded.broken.path.name]
    assert "killed" in why[crowded.half.name]
    assert set(why) >= of(crowded.foreign) | of(crowded.broken) | {f"{crowded.orphan.path.name}.json"}
    kept = {*NOT_OURS, timing, *of(crowded.good), endpoints_path(crowded.good.path).name}
    assert set(names(crowded.folder)) == kept
    after = sum(path.stat().st_size for path in crowded.folder.iterdir())
    assert sum(removed.nbytes for removed in pruned.removed) == before - after
    assert pruned.at_work == ()
    assert EngineCache(crowded.folder).prune(H200).removed == ()


def test_on_an_unknown_machine_engines_of_all_machines_stay(crowded):
    EngineCache(crowded.folder).prune(None)
    assert set(names(crowded.folder)) >= of(crowded.good) | of(crowded.foreign)
    assert not set(names(crowded.folder)) & (of(crowded.broken) | of(crowded.orphan) | {crowded.half.name})


def test_pruning_all_leaves_what_is_not_ours_and_what_is_being_built(crowded):
    lock = EngineFolder(crowded.folder).lock_path(crowded.good.sidecar.key)
    ours = of(crowded.good) | {endpoints_path(crowded.good.path).name}
    with locked(lock, lambda: None):  # as by a process that builds
        pruned = EngineCache(crowded.folder).prune(None, everything=True)
        assert {path.name for path in pruned.at_work} == ours
        assert set(names(crowded.folder)) == {*NOT_OURS, *ours, lock.name}
    EngineCache(crowded.folder).prune(None, everything=True)
    assert set(names(crowded.folder)) == set(NOT_OURS)
