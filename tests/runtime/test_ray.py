"""A clip on a Ray cluster: two real nodes on this machine, `ray start` twice, and runs in processes of their own."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from children import popen
from clips import write_clip, yuv_frame
from esrgan_deploy.errors import MachineError, OptionError
from esrgan_deploy.video import VideoOptions, upscale_video
from esrgan_deploy.video.output.checkpoint import parts_of
from esrgan_deploy.video.run.cluster import UpscalerSpec, upscale_on_ray

pytest.importorskip("ray")
pytestmark = pytest.mark.linux("asks /proc which of Ray's processes is which")

FRAMES = 40
SEGMENT = 6
SEGMENTS = 7

DRIVER = """
import ctypes, json, sys, time
from dataclasses import dataclass
from pathlib import Path
from esrgan_deploy.backends.reference import ReferenceSession
from esrgan_deploy.cli import Parser, run
from esrgan_deploy.upscaler import Upscaler
from esrgan_deploy.video import VideoOptions
from esrgan_deploy.video.run.cluster import UpscalerSpec, upscale_on_ray
from esrgan_deploy.video.run.cluster import run as run_module

given = json.loads(sys.argv[1])
run_module.LARGEST_SENT = given["largest_sent"]

class SlowSession(ReferenceSession):
    def _infer(self, frame):
        time.sleep(given["delay"])
        if given["stuck"] and not Path(given["stuck"]).exists():
            Path(given["stuck"]).touch()
            pause = {"with GIL": ctypes.PyDLL, "without GIL": ctypes.CDLL}[Path(given["stuck"]).name](None).pause
            while True:
                pause()
        return super()._infer(frame)

@dataclass(frozen=True)
class SlowSpec(UpscalerSpec):
    def open(self):
        if self.model:
            super(SlowSpec, self).open().close()
        return Upscaler(SlowSession())

def main(_):
    kind = SlowSpec if "delay" in given else UpscalerSpec
    given["spec"]["model"] = given["spec"]["model"] and Path(given["spec"]["model"])
    summary = upscale_on_ray(
        Path(given["source"]), Path(given["target"]), kind(**given["spec"]), VideoOptions(**given["options"]),
        address=given["address"], resume=given["resume"],
        stall_s=given["stall_s"],
        progress=lambda done, total: print(done, total, flush=True), note=lambda line: print("note", line, flush=True),
    )
    print("computed", summary.computed)

sys.exit(run(lambda: Parser("driver", ""), main, []))
"""


class Cluster:
    """Nodes that were started with `ray start`, each in a process group of its own."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.folder = folder
        self.scratch = folder / "scratch"
        """Where workers put temporary files."""
        self.scratch.mkdir()
        self.environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        self.nodes = []

    def start(self, *arguments, environment=None):
        """Start one more node with one CPU; the first one is the head."""
        place = (
            ("--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=false")
            if not self.nodes
            else (f"--address={self.address}",)
        )
        name = f"node-{len(self.nodes)}"
        with (self.folder / f"{name}.log").open("wb") as log:
            node = subprocess.Popen(
                [Path(sys.executable).with_name("ray"), "start", *place, "--num-cpus=1", "--block", *arguments],
                env={**self.environment, "TMPDIR": str(self.scratch), **(environment or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.nodes.append(node)
        deadline = time.monotonic() + 60
        while "Ray runtime started" not in (self.folder / f"{name}.log").read_text():
            assert node.poll() is None, (self.folder / f"{name}.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return node

    def at_work(self, *nodes):
        """Process ids of the workers with a task, on some nodes or on all."""
        roots = nodes or [node for node in self.nodes if node.poll() is None]
        below = [pid for node in roots for pid in processes_below(node.pid)]
        return [pid for pid in below if command_of(pid).startswith("ray::upscale_segment")]

    def kill(self, node):
        """End all processes of a node at once, without a chance to clean up."""
        for process in reversed(processes_below(node.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        node.wait()

    def stop(self):
        for node in reversed(self.nodes):
            if node.poll() is None:
                self.kill(node)


def processes_below(root):
    """Process ids of `root` and all its descendants, parents first."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in table.splitlines()]
    found = [root]
    for parent in found:
        found += [pid for pid, ppid in pairs if ppid == parent]
    return found


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def path_with(folder):
    """The environment of a node that finds modules in `folder` first."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes with one CPU each."""
    made = Cluster(tmp_path_factory.mktemp("ray"))
    try:
        made.start()
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """40 frames with sound: seven segments of at most six frames."""
    times = [512 * index + 64 * (index % 3) for index in range(FRAMES)]
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, times, sounds=[(0, 1.5)], options={"bf": "2", "g": "10"})


class Run:
    """A run on a cluster, in a process of its own."""

    def __init__(
        self,
        cluster,
        source,
        target,
        *,
        model=None,
        backend="reference",
        resume=False,
        delay=None,
        stuck=None,
        largest_sent=1 << 30,
    ):
        address = cluster.address if cluster else None
        given = {
            "source": str(source),
            "target": str(target),
            "address": address,
            "resume": resume,
            "spec": {"model": model and str(model), "backend": backend, "threads": 1},
            "options": {"segment_frames": SEGMENT},
            "largest_sent": largest_sent,
            "stall_s": 1 if stuck else 0,
            "stuck": stuck and str(stuck),
        }
        if delay:
            given["delay"] = delay
        self.command = [sys.executable, "-c", DRIVER, json.dumps(given)]
        self.environment = cluster.environment if cluster else {**os.environ, "RAY_AUTH_MODE": "disabled"}
        self.process = None

    def start(self, prefix=()):
        self.process = popen(
            [*prefix, *self.command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def wait_for(self, frames):
        """Wait until `frames` frames are done."""
        for line in self.process.stdout:
            if line[0].isdigit() and int(line.split()[0]) >= frames:
                return
        raise AssertionError(f"it ended too early: {self.process.stderr.read()}")

    def finish(self):
        """(exit code, the lines of stdout, stderr)"""
        try:
            out, errors = self.process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out.splitlines(), errors

    def succeed(self, computed=FRAMES):
        code, lines, errors = self.finish()
        assert (code, errors) == (0, "")
        assert lines[-1] == f"computed {computed}"
        return lines

    def fail(self):
        """The exit code and the one line of the error."""
        code, _, errors = self.finish()
        assert errors.startswith("driver: ")
        assert errors.count("\n") == 1, errors
        return code, errors


def alone(source, target, *, model=None, backend="reference"):
    """The file of a run without Ray."""
    with UpscalerSpec(model, backend, threads=1).open() as upscaler:
        upscale_video(source, target, upscaler, VideoOptions(segment_frames=SEGMENT))
    return target.read_bytes()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_file_is_that_of_one_machine(cluster, clip, tmp_path, suffix):
    expected = alone(clip, tmp_path / f"alone{suffix}")
    lines = Run(cluster, clip, tmp_path / f"ray{suffix}").start().succeed()
    assert (tmp_path / f"ray{suffix}").read_bytes() == expected
    shown = [tuple(map(int, line.split())) for line in lines[:-1]]
    assert shown == sorted(shown)
    assert shown[-1] == (FRAMES, FRAMES)
    assert not parts_of(tmp_path / f"ray{suffix}").exists()


@pytest.mark.slow
def test_a_killed_node_costs_no_frame(cluster, clip, tmp_path):
    expected = alone(clip, tmp_path / "alone.mp4")
    lost = cluster.start()
    run = Run(cluster, clip, tmp_path / "ray.mp4", delay=0.3).start()
    run.wait_for(8)
    until(lambda: cluster.at_work(lost))
    cluster.kill(lost)
    run.succeed()
    assert not any(cluster.scratch.iterdir())
    assert (tmp_path / "ray.mp4").read_bytes() == expected


@pytest.mark.slow
def test_a_killed_worker_costs_no_frame(cluster, clip, tmp_path):
    expected = alone(clip, tmp_path / "alone.mp4")
    run = Run(cluster, clip, tmp_path / "ray.mp4", delay=0.2).start()
    run.wait_for(8)
    os.kill(cluster.at_work()[0], signal.SIGKILL)
    run.succeed()
    assert not any(cluster.scratch.iterdir())
    assert (tmp_path / "ray.mp4").read_bytes() == expected


@pytest.mark.slow
@pytest.mark.parametrize("how", ["without GIL", "with GIL"])
def test_a_worker_that_stands_still_is_ended_and_costs_no_frame(cluster, clip, tmp_path, how):
    expected = alone(clip, tmp_path / "alone.mp4")
    stuck = tmp_path / how
    Run(cluster, clip, tmp_path / "ray.mp4", delay=0.01, stuck=stuck).start().succeed()
    assert stuck.exists(), "one was stuck"
    assert (tmp_path / "ray.mp4").read_bytes() == expected


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_without_ray(cluster, clip, tmp_path, kind):
    expected = alone(clip, tmp_path / "alone.mp4")
    target = tmp_path / "ray.mp4"
    run = Run(cluster, clip, target, delay=0.2).start()
    run.wait_for(2 * SEGMENT + 1)
    os.killpg(run.process.pid, kind)  # as a terminal does
    assert run.fail()[0] == 128 + kind
    until(lambda: not cluster.at_work())
    assert not any(cluster.scratch.iterdir())
    finished = len(list(parts_of(target).glob("*.packets")))
    assert 1 <= finished < SEGMENTS
    with UpscalerSpec(None, "reference").open() as upscaler:
        summary = upscale_video(clip, target, upscaler, VideoOptions(segment_frames=SEGMENT), resume=True)
    assert summary.computed <= FRAMES - SEGMENT * (finished - 1)
    assert target.read_bytes() == expected


def test_a_run_without_ray_goes_on_with_it(cluster, clip, tmp_path):
    expected = alone(clip, tmp_path / "alone.mp4")
    target = tmp_path / "ray.mp4"

    def interrupt(done, total):
        if len(list(parts_of(target).glob("*.packets"))) == 2:
            raise KeyboardInterrupt

    with UpscalerSpec(None, "reference").open() as upscaler, pytest.raises(KeyboardInterrupt):
        upscale_video(clip, target, upscaler, VideoOptions(segment_frames=SEGMENT), progress=interrupt)
    left = SEGMENTS - len(list(parts_of(target).glob("*.packets")))
    lines = Run(cluster, clip, target, resume=True).start().succeed(computed=FRAMES - SEGMENT * (SEGMENTS - left))
    assert int(lines[0].split()[0]) >= 2 * SEGMENT
    assert target.read_bytes() == expected


def test_workers_end_with_a_killed_driver(cluster, clip, tmp_path):
    run = Run(cluster, clip, tmp_path / "ray.mp4", delay=0.5).start()
    run.wait_for(1)
    assert cluster.at_work()
    run.process.kill()
    run.finish()
    until(lambda: not cluster.at_work())


@pytest.fixture
def hidden(tmp_path):
    """(a folder, a function): given files, it returns the start of a command that alone sees them in the folder"""
    folder = tmp_path / "hidden"
    folder.mkdir()
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", folder], capture_output=True).returncode:
        pytest.skip("only root may give a process file systems of its own")

    def prefix(*files):
        copies = " ".join(map(str, files))
        return ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {folder} && cp {copies} {folder} && exec "$@"', "sh"]

    return folder, prefix


def test_model_and_clip_that_only_this_machine_has(cluster, clip, blur_x2, hidden, tmp_path):
    expected = alone(clip, tmp_path / "alone.mp4", model=blur_x2, backend="ort")
    folder, prefix = hidden
    run = Run(cluster, folder / clip.name, tmp_path / "ray.mp4", model=folder / blur_x2.name, backend="ort")
    run.start(prefix(clip, blur_x2)).succeed()
    assert not list(folder.iterdir())
    assert (tmp_path / "ray.mp4").read_bytes() == expected


def test_a_clip_too_large_to_be_sent(cluster, clip, hidden, tmp_path):
    folder, prefix = hidden
    run = Run(cluster, folder / clip.name, tmp_path / "ray.mp4", largest_sent=1000).start(prefix(clip))
    code, line = run.fail()
    assert code == 3
    assert f"does not see {folder / clip.name}" in line
    assert "a folder that all machines share" in line
    assert not parts_of(tmp_path / "ray.mp4").exists()


def test_damage_ends_the_file_where_it_does_on_one_machine(cluster, tmp_path):
    clip = write_clip(
        tmp_path / "noise.mp4",
        draw=lambda index, size: yuv_frame(np.random.default_rng(index).integers(40, 200, size), 128, 128),
        pts=range(0, FRAMES * 512, 512),
        options={"g": "8"},
    )
    with av.open(str(clip)) as whole:
        place = [packet.pos for packet in whole.demux(video=0) if packet.size][21]
    data = bytearray(clip.read_bytes())
    data[place : place + 300] = bytes(300)
    clip.write_bytes(data)
    with pytest.raises(Exception, match="cut off or damaged"):
        alone(clip, tmp_path / "alone.mp4")
    code, line = Run(cluster, clip, tmp_path / "ray.mp4").start().fail()
    assert code == 2
    assert f"{clip}: is cut off or damaged" in line
    assert f"{tmp_path / 'ray.mp4'} holds the 21 frames before that" in line
    assert (tmp_path / "ray.mp4").read_bytes() == (tmp_path / "alone.mp4").read_bytes()


def test_a_bad_model_is_named_by_its_path_on_this_machine(cluster, clip, tmp_path):
    model = tmp_path / "bad.onnx"
    model.write_bytes(b"no model")
    code, line = Run(cluster, clip, tmp_path / "ray.mp4", model=model, backend="ort").start().fail()
    assert code == 2
    assert line.startswith(f"driver: {model}: is not an ONNX file")


@pytest.mark.parametrize(
    ("lacks", "says"),
    [("onnxruntime", "node .*: -b ort needs "), ("esrgan_deploy", r"node [\d.]+: No module .* install the same")],
)
def test_a_node_that_lacks_something_is_named(cluster, clip, blur_x2, tmp_path, lacks, says):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata, sys\n"
        "class Lacking:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {lacks!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Lacking())\n"
        "known = importlib.metadata.version\n"
        "def version(name):\n"
        f"    if name == {lacks!r}:\n"
        "        raise importlib.metadata.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "importlib.metadata.version = version\n"
    )
    node = cluster.start(environment=path_with(tmp_path))
    slow = {"delay": 1.0}  # so that the others leave something for this node, however long it takes to start a worker
    try:
        code, line = Run(cluster, clip, tmp_path / "ray.mp4", model=blur_x2, backend="ort", **slow).start().fail()
    finally:
        cluster.kill(node)
    assert re.search(says, line), line
    assert code == 3


def test_a_node_of_another_version_is_named(cluster, clip, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import esrgan_deploy\nesrgan_deploy.__version__ = '0.0.0'\n")
    node = cluster.start(environment=path_with(tmp_path))
    try:
        code, line = Run(cluster, clip, tmp_path / "ray.mp4", delay=1.0).start().fail()
    finally:
        cluster.kill(node)
    assert re.search(
        r"node .*: its esrgan-deploy is 0\.0\.0, that of the run .*, so the segments would not fit", line
    ), line
    assert code == 3


def test_a_run_starts_and_stops_a_cluster_of_its_own(clip, tmp_path):
    expected = alone(clip, tmp_path / "alone.mp4")
    run = Run(None, clip, tmp_path / "ray.mp4").start()
    run.wait_for(1)
    started = processes_below(run.process.pid)
    run.succeed()
    assert (tmp_path / "ray.mp4").read_bytes() == expected
    assert len(started) > 3
    assert not [pid for pid in started if command_of(pid)]


def test_what_cannot_work_is_refused_at_once(clip, tmp_path):
    spec = UpscalerSpec(None, "reference")
    with socket.socket() as taken, pytest.raises(MachineError, match=r"--ray 127\.0\.0\.1:\d+: nothing answers there"):
        taken.bind(("127.0.0.1", 0))
        upscale_on_ray(clip, tmp_path / "a.mp4", spec, address=f"127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(OptionError, match="--ray head: is no address"):
        upscale_on_ray(clip, tmp_path / "a.mp4", spec, address="head")
    with pytest.raises(OptionError, match="--preview does not work with --ray"):
        upscale_on_ray(clip, tmp_path / "a.mp4", spec, VideoOptions(preview=1))
