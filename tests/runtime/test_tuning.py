"""Tuning: which candidates there are, which one wins, what is remembered, and who uses it.

Nothing is timed here but that some answer comes: where the times matter, they are given.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clips import write_clip
from esrgan_deploy import ModelError, ModelInfo, OptionError, Upscaler, open_session, tiling
from esrgan_deploy.backends import saved_choices
from esrgan_deploy.backends.int8 import int8_path
from esrgan_deploy.backends.reference import ReferenceSession
from esrgan_deploy.cli import upscale
from esrgan_deploy.errors import MachineError
from esrgan_deploy.flops import count_flops
from esrgan_deploy.model import load_onnx
from esrgan_deploy.system import cpu
from esrgan_deploy.tuning import (
    Candidate,
    Choice,
    Timing,
    candidates,
    halving,
    recall,
    run_settings,
    search,
    short_network,
)
from esrgan_deploy.tuning.run_settings import RunSettings
from esrgan_deploy.video import parts_of
from tiny_int8 import CHANNELS, write_float, write_int8

pytest.importorskip("openvino")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def pair(tmp_path):
    """A float model with its INT8 artefact beside it."""
    model = write_float(tmp_path / "tiny_x2_a0.80_fp32.onnx")
    write_int8(tmp_path / "tiny_x2_a0.80_int8.onnx")
    return model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "esrgan-deploy" / "tuning"


def choice_of(*found, tiles=(), remarks=()):
    return Choice(tuple(Timing(c, float(i + 1), 64) for i, c in enumerate(found)), tuple(tiles), tuple(remarks), 1.5)


ORT = Candidate("ort", "fp32", 1, 1)
OV = Candidate("openvino", "fp32", 1, 1)
OV_TWO = Candidate("openvino", "fp32", 2, 2)


# --- the INT8 artefact ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "artefact"),
    [
        ("x_x4_a0.80_fp32.onnx", "x_x4_a0.80_int8.onnx"),
        ("x_x4_a0.80_fp16.onnx", "x_x4_a0.80_int8.onnx"),
        ("x_x4_a0.80_bf16.onnx", "x_x4_a0.80_int8.onnx"),
        ("x4plus.onnx", "x4plus_int8.onnx"),
        ("my_net.onnx", "my_net_int8.onnx"),
    ],
)
def test_the_artefact_has_the_name_of_its_model(model, artefact):
    assert int8_path(Path("somewhere") / model) == Path("somewhere") / artefact


@pytest.mark.parametrize("backend", ["auto", "openvino", "ort"])
def test_int8_takes_the_artefact_beside_the_model(pair, rng, backend):
    frame = rng.integers(0, 256, (1, 20, 24, 3)).astype(np.uint8)
    with open_session(pair, backend, precision="int8") as session, open_session(pair, backend) as exact:
        assert session.precision == "int8"
        assert session.model_sha256 == load_onnx(int8_path(pair))[1].file_sha256 != exact.model_sha256
        difference = np.abs(session.run(frame).astype(int) - exact.run(frame))
    assert 0 < difference.max() <= 8, "rounded to 8 bits inside, and still the same network"


def test_a_model_that_is_int8_itself_is_simply_taken(pair):
    artefact = int8_path(pair)
    for precision in ("int8", "auto"):
        with open_session(artefact, precision=precision) as session:
            assert (session.precision, session.model_sha256) == ("int8", load_onnx(artefact)[1].file_sha256)


def test_without_an_artefact_the_error_says_how_to_make_it(tmp_path):
    model = write_float(tmp_path / "tiny_x2_a0.80_fp32.onnx")
    with pytest.raises(OptionError, match=r"tiny_x2_a0.80_int8.onnx .* esrgan-export --int8 --calibrate DIR") as caught:
        open_session(model, precision="int8")
    assert "\n" not in str(caught.value)
    with pytest.raises(OptionError, match="--calibrate"):
        search.tune(model, "int8")


@pytest.mark.parametrize(
    ("write", "about", "words"),
    [
        (write_int8, {"alpha": 0.5}, "alpha 0.5"),
        (write_int8, {"psnr_sha256": "c" * 64}, "psnr_sha256 c"),
        (write_int8, {"gan_sha256": "c" * 64}, "gan_sha256 c"),
        (write_float, {}, "is fp32, though its name says int8"),
    ],
)
def test_an_artefact_of_another_network_is_refused(pair, write, about, words):
    write(int8_path(pair), **about)
    with pytest.raises(ModelError, match=words):
        open_session(pair, precision="int8")


# --- candidates ----------------------------------------------------------------------------------------------------


def kinds(model, quality, precision="fp32"):
    found = candidates.candidates(model, ModelInfo(scale=2, precision=precision), quality)
    assert len(set(found)) == len(found)
    assert all(c.streams <= c.threads <= cpu.usable_threads() for c in found)
    return list(dict.fromkeys((c.backend, c.precision) for c in found))


@pytest.mark.parametrize(
    ("bf16", "quality", "expected"),
    [
        (False, "auto", ["openvino fp32", "ort fp32"]),
        (True, "auto", ["openvino bf16", "openvino fp32", "ort fp32"]),
        (True, "fp32", ["openvino fp32", "ort fp32"]),
        (True, "bf16", ["openvino bf16"]),
        (False, "int8", ["openvino int8", "openvino fp32", "ort int8", "ort fp32"]),
    ],
)
def test_only_what_keeps_the_quality_is_a_candidate(pair, monkeypatch, bf16, quality, expected):
    monkeypatch.setattr(candidates, "cpu_has_bf16", lambda: bf16)
    assert kinds(pair, quality) == [tuple(kind.split()) for kind in expected]


def test_files_in_int8_and_bf16_leave_less_to_choose(pair, monkeypatch):
    monkeypatch.setattr(candidates, "cpu_has_bf16", lambda: True)
    assert kinds(pair, "auto", precision="int8") == [("openvino", "int8"), ("ort", "int8")]
    assert {backend for backend, _ in kinds(pair, "auto", precision="bf16")} == {"openvino"}


def test_bf16_is_refused_where_the_processor_has_none(pair, monkeypatch):
    monkeypatch.setattr(candidates, "cpu_has_bf16", lambda: False)
    with pytest.raises(OptionError, match="use --precision fp32"):
        kinds(pair, "bf16")


# --- the short network----------------------------------------------------------------------------------------------


def computed(model, name, image):
    """By ONNX Runtime, node by node as they stand there."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run([name], {"input": image})[0]


@pytest.mark.parametrize("write", [write_float, write_int8])
def test_a_short_network_computes_the_beginning_of_the_network(tmp_path, rng, monkeypatch, write):
    model = onnx.load(write(tmp_path / "m.onnx", layers=6))
    conv = 2 * 9 * CHANNELS * CHANNELS * short_network.SIDE**2
    monkeypatch.setattr(short_network, "SHORT_FLOPS", 2.5 * conv)
    part = short_network.shorten(model)
    assert 2.5 * conv <= count_flops(part, short_network.SIDE, short_network.SIDE) < 3.5 * conv
    assert part.metadata_props == model.metadata_props
    (path := tmp_path / "part.onnx").write_bytes(part.SerializeToString())
    assert load_onnx(path)[1].scale == 2  # a network from pictures to pictures, as large as those of the whole
    image = rng.random((1, 3, 9, 11), dtype=np.float32)
    model.graph.output.append(onnx.helper.make_tensor_value_info("c3", onnx.TensorProto.FLOAT, None))
    enlarged = computed(model, "c3", image)[:, :3].repeat(2, 2).repeat(2, 3)
    np.testing.assert_array_equal(computed(part, "excerpt/output", image), enlarged)


def test_a_small_network_stays_whole(tmp_path):
    model = onnx.load(write_float(tmp_path / "m.onnx"))
    assert short_network.shorten(model) == model


# --- successive halving --------------------------------------------------------------------------------------------


def hold(monkeypatch, took, names, broken=()):
    """Let candidates compete whose times are given: `took(candidate, how many runs there were before)`, per pixel."""
    runs = 0

    class Given(halving.Runner):
        def timed(self, side):
            nonlocal runs
            runs += 1
            return took(self.candidate, runs) * side * side * halving.TILES_AT_ONCE * 1e-9

    def load(self, place, candidate):
        if candidate in broken:
            raise MachineError("has no code for this processor")
        runner = Given(place, candidate, None)
        runner.run(halving.SIDES[0])
        return runner

    monkeypatch.setattr(halving.SuccessiveHalving, "_load", load)
    with halving.SuccessiveHalving(Path("a"), Path("b"), float("inf"), lambda done, total: None) as contest:
        return contest.decide(names)


FIELD = [Candidate("openvino", "fp32", threads, streams) for threads in (1, 2, 3) for streams in (1, 2)]


@given(st.lists(st.floats(1, 100), min_size=1, max_size=6))
def test_the_fastest_wins(costs):
    with pytest.MonkeyPatch.context() as patch:
        by_candidate = dict(zip(FIELD, costs, strict=False))
        timings, best = hold(patch, lambda candidate, _: by_candidate[candidate], list(by_candidate))
    assert by_candidate[best.candidate] <= halving.NOISE * min(costs)
    assert timings[0].candidate == best.candidate
    assert {t.candidate for t in timings} == set(by_candidate)
    for found in timings:
        assert found.slower == pytest.approx(by_candidate[found.candidate] / by_candidate[best.candidate])


def test_of_equals_the_plainest_wins(monkeypatch):
    _, best = hold(monkeypatch, lambda candidate, _: 1.0 + (candidate == FIELD[0]) * 0.02, FIELD)
    assert best.candidate == FIELD[0]


def test_other_work_that_comes_and_goes_does_not_decide(monkeypatch):
    """It makes some runs several times slower, whoever runs then."""
    _, best = hold(
        monkeypatch,
        lambda candidate, run: (1.0 - 0.2 * (candidate == FIELD[3])) * (1, 5, 1, 3, 4, 1, 2)[run % 7],
        FIELD,
    )
    assert best.candidate == FIELD[3]


def test_a_candidate_that_does_not_run_is_told_of_and_never_wins(monkeypatch):
    timings, best = hold(monkeypatch, lambda candidate, _: 1.0, [OV, ORT], broken=[OV])
    assert best.candidate == ORT
    assert (timings[-1].candidate, timings[-1].fault) == (OV, "has no code for this processor")
    with pytest.raises(MachineError, match="no code"):
        hold(monkeypatch, lambda candidate, _: 1.0, [OV, ORT], broken=[OV, ORT])


def test_without_time_the_likeliest_candidate_is_the_answer(pair, cache, monkeypatch):
    monkeypatch.setattr(search, "SPENT_S", 0.0)
    choice = search.tune(pair, "fp32")
    assert choice.best == candidates.candidates(pair, load_onnx(pair)[1], "fp32")[0]
    assert {t.fault for t in choice.timings[1:]} <= {"no time was left"}


# --- the answer ----------------------------------------------------------------------------------------------------


def test_for_one_picture_the_fastest_of_one_stream_is_taken():
    choice = choice_of(OV_TWO, ORT, OV)
    assert (choice.for_streams(2), choice.for_streams(1)) == (OV_TWO, ORT)


def test_the_line_says_what_was_chosen_and_why():
    choice = choice_of(OV_TWO, OV, ORT, remarks=["no bf16"])
    assert choice.line() == "openvino in fp32, 2 threads, 2 streams (3.00x ort fp32; no bf16)"


def test_the_table_names_every_candidate():
    choice = dataclasses.replace(choice_of(OV_TWO, ORT), tiles=((64, 3.0), (128, 2.0)))
    failed = Timing(OV, None, 0, "no time was left")
    lines = dataclasses.replace(choice, timings=(*choice.timings, failed)).table().splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == [str(OV_TWO), str(ORT), str(OV)]
    assert (lines[1].split()[-2:], lines[2].split()[-2:]) == (["1.00", "64x64"], ["2.00", "64x64"])
    assert lines[3].endswith("failed  no time was left")
    assert lines[4] == "tile: 64 1.50, 128 1.00"


@given(
    height=st.integers(40, 400),
    width=st.integers(40, 400),
    slopes=st.lists(st.floats(0.5, 2), min_size=3, max_size=3),
)
def test_the_tile_is_the_one_that_costs_least(height, width, slopes):
    """Against adding up the time of each tile, for tiles that are as large as one that was timed."""
    session = ReferenceSession(ModelInfo(scale=2, overlap=8))
    session.any_shape, session.largest_untiled = False, 1 << 20
    tiles = list(zip((48, 96, 192), slopes, strict=True))
    found = run_settings.fastest_tile(choice_of(OV, tiles=tiles), Upscaler(session), height, width)

    def cost(plan):
        area = plan.rows.tile * plan.columns.tile
        return len(plan) * area * np.interp(area**0.5, [side for side, _ in tiles], slopes)

    whole = height * width * np.interp((height * width) ** 0.5, [side for side, _ in tiles], slopes)
    costs = {side: cost(tiling.square_tiles(height, width, side, 8)) for side, _ in tiles if side < max(height, width)}
    least = min(costs.values(), default=np.inf)
    assert found is None or costs[found] == pytest.approx(least)
    assert (found is None) == (least * halving.NOISE >= whole)


def test_tiles_that_there_is_no_memory_for_are_not_taken():
    session = ReferenceSession(ModelInfo(scale=2, overlap=8))
    session.largest_untiled = 100 * 100
    choice = choice_of(OV, tiles=[(48, 1.0), (96, 5.0), (192, 0.01)])
    assert run_settings.fastest_tile(choice, Upscaler(session, tile=None), 400, 400) in (None, 48, 96)


# --- the memory ----------------------------------------------------------------------------------------------------


def test_what_was_chosen_is_remembered(pair, cache):
    assert recall(pair, "auto") is None
    choice = choice_of(OV_TWO, ORT, tiles=[(64, 1.5)], remarks=["no bf16"])
    path = saved_choices.remember(pair, "auto", choice)
    assert path.parent == cache
    assert recall(pair, "auto") == choice
    assert recall(pair, "fp32") is None, "another quality"
    assert [p.name for p in cache.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"question": 1}', b"\xff\xfe", "CUT", "NO TIMINGS", "OTHER QUESTION", "WORDS"],
)
def test_a_damaged_file_counts_as_missing_and_is_written_anew(pair, cache, content):
    path = saved_choices.remember(pair, "auto", choice_of(OV))
    whole = json.loads(path.read_text())
    if content == "CUT":
        content = path.read_bytes()[:-40]
    elif content == "NO TIMINGS":
        whole["choice"]["timings"] = []
    elif content == "OTHER QUESTION":
        whole["question"]["threads"] += 1
    elif content == "WORDS":
        whole["choice"]["timings"][0]["candidate"]["threads"] = "many"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(whole).encode())
    assert recall(pair, "auto") is None
    saved_choices.remember(pair, "auto", choice_of(ORT))
    assert recall(pair, "auto") == choice_of(ORT)


def test_another_machine_or_model_remembers_nothing(pair, cache, monkeypatch):
    saved_choices.remember(pair, "int8", choice_of(OV))
    assert recall(pair, "int8")
    with monkeypatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        assert recall(pair, "int8") is None
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "usable_cores", lambda: 0.5)
        assert recall(pair, "int8") is None
    artefact = int8_path(pair).read_bytes()
    write_int8(int8_path(pair), layers=4)
    assert recall(pair, "int8") is None
    int8_path(pair).write_bytes(artefact)
    assert recall(pair, "int8")
    write_float(pair, layers=4)
    assert recall(pair, "int8") is None


def test_without_a_place_for_it_the_choice_is_still_one(pair, cache, monkeypatch):
    cache.parent.mkdir(parents=True)
    cache.write_text("no folder")
    monkeypatch.setattr(search, "SPENT_S", 0.0)
    choice = search.tune(pair, "fp32")
    assert "not remembered" in choice.remarks[-1]
    assert recall(pair, "fp32") is None


def test_auto_opens_what_is_remembered(pair, cache):
    with open_session(pair) as session:
        assert session.backend == "openvino"
    saved_choices.remember(pair, "auto", choice_of(OV_TWO, ORT))
    with open_session(pair, streams=2) as session:
        assert session.backend == "openvino"
    with open_session(pair) as session:
        assert session.backend == "ort", "the fastest of one stream"
    with open_session(pair, "openvino") as session:
        assert session.backend == "openvino", "asked for"
    saved_choices.remember(pair, "int8", choice_of(OV))
    with open_session(pair, precision="int8") as session:
        assert session.precision == "fp32", "faster here, says the memory"


# --- the processor -------------------------------------------------------------------------------------------------


OLD_PROGRAM = """
import json, os, sys
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from esrgan_deploy import open_session
from esrgan_deploy.models import COMPACT_CLEAN
from esrgan_deploy.tuning import search
search.SPENT_S = 1.0
with open_session(COMPACT_CLEAN) as session:
    untuned = session.backend
choice = search.tune(Path(sys.argv[1]), "int8")
timed = [t.candidate for t in choice.timings]
print(json.dumps([untuned, choice.line(), [c.threads for c in timed], [c.backend for c in timed]]))
"""


@pytest.mark.linux("sets the affinity of a process")
def test_an_old_processor_with_one_core_is_served_well(pair, cache):
    """OpenVINO has no code for some operators of ours there."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "SSE41"}
    done = subprocess.run(
        [sys.executable, "-c", OLD_PROGRAM, str(pair)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    untuned, line, threads, backends = json.loads(done.stdout)
    assert {untuned, *backends} == {"ort"}
    assert set(threads) == {1}
    assert "no AVX2" in line
    assert ("1 of" in line) is (os.cpu_count() > 1)


# --- who tunes, and who goes on --------------------------------------------------------------------------------------


def test_the_limit_of_a_long_job(tmp_path):
    model = write_float(tmp_path / "m.onnx")
    per_frame = count_flops(onnx.load(model), 64, 64) / 64**2 * 100 * 50
    frames = run_settings.LONG_S * run_settings.OPTIMISTIC_GFLOPS * 1e9 * cpu.usable_threads() / per_frame
    assert run_settings.is_long(model, 100, 50, int(frames * 1.01))
    assert not run_settings.is_long(model, 100, 50, int(frames * 0.99))


ASKED = RunSettings("auto", "auto", None, 2, None)
RECORDED = {"backend": "ort", "precision": "fp32", "tile": 96}


@pytest.mark.parametrize(
    ("asked", "recorded", "expected"),
    [
        ({}, {}, {"backend": "ort", "precision": "fp32", "tile": 96}),
        ({}, {"tile": "auto"}, {"backend": "ort", "precision": "fp32"}),
        ({}, {"tile": "auto, up to 5000 pixels"}, {"backend": "ort", "precision": "fp32", "most_pixels": 5000}),
        ({"tile": 32}, {}, {"backend": "ort", "precision": "fp32", "tile": 32}),
        ({"tile": 0}, {"tile": "auto, up to 5000 pixels"}, {"backend": "ort", "precision": "fp32", "tile": 0}),
        ({"backend": "openvino"}, {}, {"backend": "openvino"}),
        ({"precision": "bf16"}, {}, {"precision": "bf16"}),
        ({"precision": "int8"}, {}, {"backend": "ort", "precision": "fp32", "tile": 96}),
        ({"precision": "int8"}, {"precision": "int8"}, {"backend": "ort", "precision": "int8", "tile": 96}),
        ({}, {"precision": "int8"}, {}),
        ({}, {"backend": "tensorrt", "precision": "fp16"}, {"backend": "tensorrt", "tile": 96}),
        ({}, {"backend": ["ort"], "precision": ["fp32"], "tile": {}}, {}),
        ({}, {"tile": f"auto, up to {'9' * 5000} pixels"}, {"backend": "ort", "precision": "fp32"}),
    ],
)
def test_what_is_asked_for_wins_and_then_what_an_interrupted_run_took(asked, recorded, expected):
    before = dataclasses.replace(ASKED, **asked)
    assert before.resumed({**RECORDED, **recorded}) == dataclasses.replace(before, **expected)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ("openvino", "fp32", 2, 2)),
        ({"threads": 1}, ("openvino", "fp32", 1, 1)),
        ({"threads": 8}, ("openvino", "fp32", 8, 2)),
    ],
)
def test_threads_that_are_asked_for_win_over_the_tuned_ones(asked, expected):
    found = dataclasses.replace(ASKED, **asked).chosen(choice_of(OV_TWO))
    assert (found.backend, found.precision, found.threads, found.streams) == expected


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "in.mkv"
    write_clip(path, range(0, 24 * 512, 512))
    return path


def run(*arguments):
    return upscale.main([str(argument) for argument in arguments])


def test_a_long_clip_is_tuned_for_once(pair, clip, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_settings, "LONG_S", 0.0)
    monkeypatch.setattr(search, "SPENT_S", 1.0)
    for number, words in enumerate(("tuned in", "tuned before")):
        assert run(clip, "-o", tmp_path / f"{number}.mkv", "-m", pair) == 0
        error = capsys.readouterr().err
        assert error.count("tuned") == 1
        assert f"esrgan-upscale: {words}" in error
    assert (tmp_path / "0.mkv").read_bytes() == (tmp_path / "1.mkv").read_bytes()
    assert run(clip, "-o", tmp_path / "2.mkv", "-m", pair, "-b", "ort") == 0
    assert "tuned" not in capsys.readouterr().err, "a backend was asked for"


@pytest.mark.parametrize(("precision", "taken"), [("auto", ORT), ("int8", OV)])
def test_a_run_goes_on_as_it_began_though_the_choice_is_forgotten(
    pair, clip, cache, tmp_path, capsys, monkeypatch, precision, taken
):
    saved_choices.remember(pair, precision, choice_of(taken))
    target = tmp_path / "out.mkv"
    arguments = (clip, "-o", target, "-m", pair, "--precision", precision, "--segment", "4")

    def interrupt(self, done, total=None, note=""):
        if done == 16:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(upscale.Progress, "__call__", interrupt)
        assert run(*arguments) == 130
    assert parts_of(target).is_dir()
    for path in cache.iterdir():
        path.unlink()
    capsys.readouterr()
    assert run(*arguments, "--resume") == 0
    captured = capsys.readouterr()
    assert f"{taken.backend} in {taken.precision}" in captured.err
    assert "were finished before" in captured.out
    whole = tmp_path / "whole.mkv"
    assert run(clip, "-o", whole, "-m", pair, "-b", taken.backend, "--precision", "fp32", "--segment", "4") == 0
    assert target.read_bytes() == whole.read_bytes()
