"""The cache of engines, with plans that TensorRT-RTX really builds; it needs no GPU for that."""

import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from esrgan_deploy import ModelError, OptionError, OutputError
from esrgan_deploy.alpha import endpoints_path
from esrgan_deploy.engine.adapter import TensorRT
from esrgan_deploy.engine.machine import Machine
from esrgan_deploy.engine.options import EngineOptions, Shape
from esrgan_deploy.engine.store import timing_cache
from esrgan_deploy.engine.store.cache import EngineCache, engine_key
from esrgan_deploy.engine.store.sidecar import sidecar_beside
from esrgan_deploy.models import COMPACT_CLEAN
from esrgan_deploy.system.paths import temporary_cache
from fake_cuda import FACTS, FakeDriver
from fake_tensorrt import make
from gain_pair import write_model
from planted_engines import DYNAMIC, H200, OPTIONS, edit_sidecar, names, plant, truncate


@pytest.fixture(scope="session")
def rtx():
    return TensorRT(pytest.importorskip("tensorrt_rtx", reason="needs the wheels of TensorRT-RTX"))


class Told(list):
    """Remembers what progress was told."""

    def __call__(self, phase, done, total):
        self.append((phase, done, total))

    @property
    def messages(self):
        return [phase for phase, _, total in self if not total]

    @property
    def built(self):
        return any(total for _, _, total in self)


def get(cache, rtx, model, options=OPTIONS):
    """What the cache gave, and what it told."""
    told = Told()
    return EngineCache(cache).get(rtx, None, model, options, progress=told), told


# Found again, or built


def test_an_engine_is_built_once_and_says_what_it_is(rtx, blur_x2, tmp_path):
    cache = tmp_path / "deep" / "cache"
    engine, told = get(cache, rtx, blur_x2)
    assert told.built
    assert told.messages == []
    pattern = rf"blur\.u8_1x16x24\.rtx{re.escape(rtx.version)}\.any\.[0-9a-f]{{12}}\.engine"
    assert re.fullmatch(pattern, engine.path.name)
    assert names(cache) == [engine.path.name, f"{engine.path.name}.json"]
    plan = engine.path.read_bytes()
    assert plan.startswith(b"vtrt")
    assert engine.read() == plan
    content = json.loads((cache / f"{engine.path.name}.json").read_text())
    assert content["plan_sha256"] == hashlib.sha256(plan).hexdigest()
    assert content["model_sha256"] == hashlib.sha256(blur_x2.read_bytes()).hexdigest()
    assert content["info"]["esrgan.scale"] == "2"
    assert content["options"]["profile"] == "1x16x24"
    version = f"TensorRT-RTX {rtx.version}"
    assert content["machine"] == {"gpu": "any", "compute_capability": [0, 0], "driver": "", "library": version}
    again, told = get(cache, rtx, blur_x2)
    assert again == engine
    assert told == []


def test_a_model_counts_by_its_bytes_not_by_its_name(rtx, blur_x2, tmp_path):
    renamed = tmp_path / "other.onnx"
    renamed.write_bytes(blur_x2.read_bytes())
    engine, _ = get(tmp_path / "cache", rtx, blur_x2)
    found, told = get(tmp_path / "cache", rtx, renamed)
    assert (found, told) == (engine, [])
    renamed.write_bytes(blur_x2.read_bytes().replace(b"blurred", b"BLURRED"))  # a network with other names
    other, told = get(tmp_path / "cache", rtx, renamed)
    assert told.built
    assert other.path.name.startswith("other.")


KEYED = {
    "the same": {},
    "model": {"model": "b" * 64},
    "GPU": {"gpu": "NVIDIA H100"},
    "compute capability": {"compute_capability": (8, 9)},
    "driver": {"driver": "570.1"},
    "TensorRT": {"library": "TensorRT 11.4.0.106"},
    "profile": {"profile": DYNAMIC},
    "frames": {"frames": "uint16"},
    "refit": {"refit": True},
    "optimization": {"optimization_level": 5},
    "tiling": {"tiling": "full"},
    "aux streams": {"aux_streams": 0},
    "workspace": {"workspace_mib": 512},
}


def test_each_thing_that_decides_a_plan_gives_another_key():
    fields = {field.name for field in (*dataclasses.fields(Machine), *dataclasses.fields(EngineOptions))}
    assert {name for change in KEYED.values() for name in change} == fields | {"model"}, "a new field is to be tried"

    def key(change):
        machine = {name: value for name, value in change.items() if hasattr(H200, name)}
        options = {name: value for name, value in change.items() if hasattr(OPTIONS, name)}
        model = change.get("model", "a" * 64)
        return engine_key(model, dataclasses.replace(H200, **machine), dataclasses.replace(OPTIONS, **options))

    assert len({key(change) for change in KEYED.values()}) == len(KEYED)
    assert key({}) == key({})


def test_file_names_stay_within_what_file_systems_allow(rtx, blur_x2, tmp_path):
    model = tmp_path / f"a\n{'ü' * 110}.onnx"
    model.write_bytes(blur_x2.read_bytes())
    engine, _ = get(tmp_path / "cache", rtx, model)
    assert len(os.fsencode(engine.path.name)) < 200
    assert [entry.engine for entry in EngineCache(tmp_path / "cache").entries()] == [engine]


def test_the_default_folder_is_that_of_the_xdg_specification(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given_folder, base in (("/some/where", Path("/some/where")), ("relative", tmp_path / ".cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", given_folder)
        assert EngineCache().folder == base / "esrgan-deploy" / "engines"


@pytest.mark.linux("names a home that is no folder")
def test_without_a_home_an_engine_is_built_for_this_process(rtx, blur_x2, monkeypatch, caplog):
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.delenv("XDG_CACHE_HOME")
    temporary_cache.cache_clear()
    cache = EngineCache()
    assert cache.entries() == []
    told = Told()
    engine = cache.get(rtx, None, blur_x2, OPTIONS, progress=told)
    assert told.built
    assert cache.get(rtx, None, blur_x2, OPTIONS, progress=told) == engine
    assert cache.folder == engine.path.parent
    (record,) = caplog.records
    assert "there is no home folder for a cache; set XDG_CACHE_HOME to a folder" in record.message


# What is damaged is built again


def flip_a_bit(engine):
    plan = bytearray(engine.path.read_bytes())
    plan[len(plan) // 2] ^= 1
    engine.path.write_bytes(plan)


DAMAGE = {
    "truncated": truncate,
    "empty": lambda engine: engine.path.write_bytes(b""),
    "begins with b'a text f'": lambda engine: engine.path.write_text("a text file"),
    "SHA-256 differs": flip_a_bit,
    "engine.json is missing": lambda engine: sidecar_beside(engine.path).unlink(),
    "JSONDecodeError|Expecting": lambda engine: sidecar_beside(engine.path).write_text("{"),
    "is of format 99": lambda engine: edit_sidecar(engine, format=99),
    "profile": lambda engine: edit_sidecar(engine, options={}),
    "that of another engine": lambda engine: edit_sidecar(engine, key="0" * 64),
}


@pytest.mark.parametrize("words", DAMAGE)
def test_a_damaged_engine_is_built_again_and_that_is_said(rtx, blur_x2, tmp_path, words):
    engine, _ = get(tmp_path, rtx, blur_x2)
    DAMAGE[words](engine)
    rebuilt, told = get(tmp_path, rtx, blur_x2)
    assert told.built
    assert len(told.messages) == 1
    if words != "empty":
        assert re.search(words, told.messages[0])
    assert EngineCache(tmp_path).entries()[0].engine == rebuilt
    assert names(tmp_path) == [engine.path.name, f"{engine.path.name}.json"]


def test_a_plan_that_vanished_is_built_again(rtx, blur_x2, tmp_path):
    engine, _ = get(tmp_path, rtx, blur_x2)
    engine.path.unlink()
    rebuilt, told = get(tmp_path, rtx, blur_x2)
    assert told.built
    assert rebuilt.read()


def test_an_engine_that_does_not_load_is_discarded_unless_it_is_a_new_one(tmp_path):
    cache = EngineCache(tmp_path)
    old = plant(tmp_path)
    new = plant(tmp_path, data=b"ftrt built by another process meanwhile")
    cache.discard(old)
    assert [entry.engine for entry in cache.entries()] == [new]
    cache.discard(new)
    assert names(tmp_path) == []


def test_a_model_that_changes_while_it_is_read_gets_no_engine(rtx, blur_x2, tmp_path, monkeypatch):
    from esrgan_deploy.engine.store import cache

    path = tmp_path / "net.onnx"
    path.write_bytes(blur_x2.read_bytes())
    real = cache.load_onnx

    def load_changed(path):
        path.write_bytes(blur_x2.read_bytes().replace(b"blurred", b"BLURRED"))
        return real(path)

    monkeypatch.setattr(cache, "load_onnx", load_changed)
    with pytest.raises(ModelError, match=r"net\.onnx: was changed"):
        get(tmp_path / "cache", rtx, path)
    assert names(tmp_path / "cache") == []


# Several processes

CHILD = """
import os, signal, sys, time
from pathlib import Path
from esrgan_deploy.engine.store import cache
from esrgan_deploy.engine.adapter import load_tensorrt
from esrgan_deploy.engine.options import EngineOptions, Profile

folder, model, behaviour = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class HalfPath(type(Path())):
    def write_bytes(self, data):
        super().write_bytes(data[:1000])
        die()

def progress(phase, done, total):
    print(phase, flush=True)
    if behaviour == "wait" and total:
        sys.stdin.readline()
    if behaviour == "killed while it builds":
        die()

if behaviour == "killed before the sidecar":
    cache.write_sidecar = die
if behaviour == "killed while it writes":
    folder = HalfPath(folder)
options = EngineOptions(Profile.fixed(1, 16, 24))
engine = cache.EngineCache(folder).get(load_tensorrt(), None, model, options, progress=progress)
print("DONE", engine.path, engine.sidecar.built.isoformat(), len(engine.read()))
"""


def child(folder, model, behaviour="build"):
    command = [sys.executable, "-c", CHILD, str(folder), str(model), behaviour]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_second_process_waits_and_takes_the_engine_of_the_first(rtx, blur_x2, tmp_path):
    with child(tmp_path, blur_x2, "wait") as first:
        assert first.stdout.readline() == "Building engine\n"  # it holds the lock, and waits for a line
        with child(tmp_path, blur_x2) as second:
            assert "waiting" in second.stdout.readline()
            first.stdin.close()
            one, other = first.stdout.read().splitlines()[-1], second.stdout.read().splitlines()
    assert (first.returncode, second.returncode) == (0, 0)
    assert one.startswith("DONE ")
    assert other == [one], "the second process built nothing, and its engine is that of the first"
    assert len(names(tmp_path)) == 2


@pytest.mark.unix("sends SIGKILL")
@pytest.mark.parametrize("moment", ["killed while it builds", "killed while it writes", "killed before the sidecar"])
def test_a_build_that_was_killed_holds_nobody_up_and_leaves_nothing(rtx, blur_x2, tmp_path, moment):
    with child(tmp_path, blur_x2, moment) as victim:
        victim.communicate(timeout=60)
    assert victim.returncode == -signal.SIGKILL
    left = names(tmp_path)
    assert any(name.endswith(".lock") for name in left), "it was killed while it held the lock"
    assert any(".part." in name for name in left) == (moment == "killed while it writes")
    assert any(name.endswith(".engine") and name[0] != "." for name in left) == (moment == "killed before the sidecar")
    assert EngineCache(tmp_path).find(rtx, None, "", Shape(1, 16, 24), "uint8", False) is None
    engine, told = get(tmp_path, rtx, blur_x2)
    assert told.built
    assert len(told.messages) == (moment == "killed before the sidecar")
    assert names(tmp_path) == [engine.path.name, f"{engine.path.name}.json"]


# Folders that cannot be written


def test_a_read_only_folder_serves_what_it_has_and_says_why_it_takes_no_more(rtx, blur_x2, tiny_disk):
    subprocess.run(["mount", "-o", "remount,size=8m", tiny_disk], check=True)
    engine, _ = get(tiny_disk, rtx, blur_x2)
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    assert get(tiny_disk, rtx, blur_x2) == (engine, [])
    told = Told()
    other = dataclasses.replace(OPTIONS, frames="uint16")
    with pytest.raises(OutputError, match=rf"{tiny_disk}: cannot be written: Read-only file system; choose"):
        EngineCache(tiny_disk).get(rtx, None, blur_x2, other, progress=told)
    assert told == [], "it was refused before the build"
    with pytest.raises(OutputError, match="Read-only"):
        EngineCache(tiny_disk).prune(None, everything=True)
    with pytest.raises(OutputError, match=r"new: cannot be made: Read-only"):
        get(tiny_disk / "new", rtx, blur_x2)


def test_a_folder_that_is_a_file_is_said(rtx, blur_x2, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(OutputError, match="cache: cannot be"):
        get(tmp_path / "cache", rtx, blur_x2)


def test_a_disk_without_room_is_noticed_before_the_build(rtx, tiny_disk):
    told = Told()
    with pytest.raises(OutputError, match=r"has 0\.1 MiB free, and the engine of compact.*about 1\.3; make room"):
        EngineCache(tiny_disk).get(rtx, None, COMPACT_CLEAN, OPTIONS, progress=told)
    assert told == []
    assert names(tiny_disk) == []


@pytest.mark.parametrize("tiny_disk", ["4m"], indirect=True)
@pytest.mark.parametrize("room", ["half a plan", "the plan alone"])
def test_a_disk_that_fills_up_while_the_engine_is_written(rtx, blur_x2, tiny_disk, tmp_path, room):
    page = os.statvfs(tiny_disk).f_bsize
    size = get(tmp_path / "roomy", rtx, blur_x2)[0].sidecar.plan_bytes
    wanted = size // 2 if room == "half a plan" else -(-size // page) * page
    free = os.statvfs(tiny_disk).f_bavail * page
    (tiny_disk / "filler").write_bytes(bytes(free - wanted))
    with pytest.raises(OutputError, match=r"engine(\.json)?: cannot be written: No space left on device; choose"):
        get(tiny_disk, rtx, blur_x2)
    assert names(tiny_disk) == ["filler"]


# TensorRT for one GPU, by the fake


@pytest.fixture
def full():
    return TensorRT(make("10.13.3.9", FakeDriver()))


def test_weights_of_both_ends_travel_with_an_engine_that_can_be_refitted(full, tmp_path):
    model = write_model(tmp_path / "pair.onnx")
    options = dataclasses.replace(OPTIONS, refit=True)
    cache = EngineCache(tmp_path / "cache")
    engine = cache.get(full, FACTS, model, options, progress=Told())
    assert engine.endpoints.read_bytes() == endpoints_path(model).read_bytes()
    assert not engine.endpoints.samefile(endpoints_path(model))
    assert len(names(cache.folder)) == 4, "plan, sidecar, endpoints and timings"
    engine.endpoints.unlink()
    told = Told()
    again = cache.get(full, FACTS, model, options, progress=told)
    assert "ends.safetensors: cannot be read" in told.messages[0]
    assert again.endpoints.read_bytes() == endpoints_path(model).read_bytes()


def test_refit_without_the_weights_of_both_ends_is_refused_before_the_build(full, tmp_path):
    model = write_model(tmp_path / "pair.onnx", with_endpoints=False)
    told = Told()
    with pytest.raises(OptionError, match=r"pair\.onnx: .* needs pair\.ends\.safetensors beside .* --refit"):
        EngineCache(tmp_path / "cache").get(full, FACTS, model, dataclasses.replace(OPTIONS, refit=True), progress=told)
    assert told == []


def test_timings_are_kept_for_each_machine_and_a_damaged_file_is_no_obstacle(full, blur_x2, tmp_path):
    cache = EngineCache(tmp_path)

    def timings():
        return {path.name for path in tmp_path.glob("*.timing")}

    engine = cache.get(full, FACTS, blur_x2, OPTIONS, progress=Told())
    (first,) = timings()
    assert first.startswith(f"{engine.sidecar.machine.label}.")
    (tmp_path / first).write_bytes(b"damaged")
    cache.get(full, FACTS, blur_x2, dataclasses.replace(OPTIONS, frames="uint16"), progress=Told())
    assert timings() == {first}
    assert timing_cache.read(tmp_path / first), "written anew"
    other = dataclasses.replace(FACTS, driver="999.1")
    rebuilt = cache.get(full, other, blur_x2, OPTIONS, progress=Told())
    assert rebuilt.path != engine.path, "a new driver never meets the plan of an old one"
    assert len(timings()) == 2
