"""Several batches at a time, axes that come to the same, and esrgan-bench --expect. Clocks are told what to say."""

from concurrent.futures import Future

import numpy as np
import pytest

from esrgan_bench import cli, expect, measure, peak, rounds
from esrgan_bench.cases import Case, Configuration, FrameCost, Sweep, list_configurations
from esrgan_bench.expect import Expectation, expectation_lines, format_duration
from esrgan_deploy import ModelInfo, Upscaler
from esrgan_deploy.backends.reference import ReferenceSession
from esrgan_deploy.backends.session import Session
from esrgan_deploy.errors import OptionError

FRAME = np.zeros((1, 4, 4, 3), np.uint8)

# --- several batches at a time --------------------------------------------------------------------------------------


class Conveyor(Session):
    """Finishes its oldest batch in the moment that one too many is on it, a second after the last one."""

    def __init__(self, places):
        self.info, self.backend, self.precision = ModelInfo(scale=1), "conveyor", "fp32"
        self.places = places
        self.under_way = []
        self.most = 0
        self.now = 0.0

    def submit(self, batch):
        self.under_way.append(Future())
        future = self.under_way[-1]
        self.most = max(self.most, len(self.under_way))
        if len(self.under_way) == self.places:
            self.finish_one()
        return future

    def finish_one(self):
        self.now += 1
        self.under_way.pop(0).set_result(None)

    def close(self):
        while self.under_way:
            self.finish_one()


def test_so_many_batches_are_under_way_all_the_time(monkeypatch):
    """Three places, a batch a second: each takes three seconds, and a round of three takes three (Little's law)."""
    conveyor = Conveyor(places=3)
    monkeypatch.setattr(rounds, "perf_counter", lambda: conveyor.now)
    source = rounds.rounds(conveyor, FRAME, streams=3)
    found = [next(source) for _ in range(rounds.WARM_UP_ROUNDS + 4)][rounds.WARM_UP_ROUNDS :]
    conveyor.close()  # all that is under way, or closing the source would wait for it
    source.close()
    assert found == [([3, 3, 3], 3)] * 4
    assert conveyor.most == 3


class Failing(ReferenceSession):
    """Its fifth batch is too large, all of a sudden."""

    calls = 0

    def _infer(self, frame):
        self.calls += 1
        if self.calls == 5:
            raise OptionError("too large")
        return super()._infer(frame)


def test_an_error_of_one_batch_ends_the_measurement():
    with Failing() as session, pytest.raises(OptionError, match="too large"):
        for _ in rounds.rounds(session, FRAME, streams=2):
            assert session.calls < 7


def test_frames_per_second_are_those_of_all_streams(blur_x2):
    case = Case(Configuration(blur_x2, "ort", "fp32", batch=2, streams=3, threads=1), 8, 8, FrameCost(1000, None))
    m = measure.Measurement(case, "ort", "fp32", 2, None, rss_before_mib=1)
    m.rounds = [rounds.Round([0.2, 0.3, 0.3], 0.4), rounds.Round([0.3, 0.3, 0.4], 0.6)]
    m.joules = 24
    assert m.seconds == [0.2, 0.3, 0.3, 0.3, 0.3, 0.4]
    assert m.fps == pytest.approx(2 * 6 / 1.0)
    assert m.gflops == pytest.approx(12 * 1000 / 1e9)
    assert m.joules_per_frame == pytest.approx(2)


# --- axes -----------------------------------------------------------------------------------------------------------


def test_two_models_of_one_name_are_refused(blur_x2, tmp_path):
    (tmp_path / blur_x2.name).write_bytes(blur_x2.read_bytes())
    with pytest.raises(OptionError, match="same name"):
        list_configurations(Sweep([blur_x2, tmp_path / blur_x2.name]))
    assert len(list_configurations(Sweep([blur_x2, blur_x2]))) == 1


def test_what_comes_to_the_same_session_is_measured_once(blur_x2, monkeypatch, capsys):
    """The reference backend knows no precisions, so two of them are one case."""
    monkeypatch.setattr(measure, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(measure, "copy_bandwidth_gb_s", lambda: 1.0)
    arguments = ["-m", str(blur_x2), "-b", "reference", "--precision", "auto", "fp32", "--shapes", "8x8", "6x6"]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err.count("not measured again") == 2
    assert [line.split()[3] for line in captured.out.splitlines() if line.startswith("blur")] == ["8x8", "6x6"]


# --- what to expect -------------------------------------------------------------------------------------------------


@pytest.fixture
def steady(monkeypatch):
    """Each computed pixel takes 1 us, whatever the frame; the pixels of all runs are noted."""
    pixels = []
    really_infer = ReferenceSession._infer

    def infer(session, frame):
        pixels.append(frame.shape[0] * frame.shape[1] * frame.shape[2])
        return really_infer(session, frame)

    def seconds_of(call):
        before = sum(pixels)
        call()
        return (sum(pixels) - before) * 1e-6

    monkeypatch.setattr(ReferenceSession, "_infer", infer)
    monkeypatch.setattr(rounds, "seconds_of", seconds_of)
    monkeypatch.setattr(expect, "disturbance", lambda: None)
    monkeypatch.setattr(peak, "measure_peak", lambda *_: peak.Peak("reference", "integer", 12, 3, 1.0))
    return pixels


def probe(model, *shapes, **axes):
    notes = []
    (expectations,) = expect.expect(Sweep([model], ["reference"], shapes=shapes, **axes), notes.append)
    return expectations, notes


@pytest.mark.parametrize("batch", [1, 2])
def test_the_time_of_a_frame_is_that_of_what_the_upscaler_computes(blur_x2, steady, monkeypatch, batch):
    monkeypatch.setattr(ReferenceSession, "largest_untiled", 64 * 64)
    expectations, _ = probe(blur_x2, (1000, 500), (60, 60), batches=[batch])
    for expectation in expectations:
        del steady[:]
        frame = np.zeros((expectation.height, expectation.width, 3), np.uint8)
        with Upscaler(ReferenceSession(ModelInfo(scale=2, overlap=2)), batch=1) as upscaler:
            upscaler.upscale(frame)
        assert expectation.pixels == sum(steady)
        assert expectation.seconds_per_frame == pytest.approx(sum(steady) * 1e-6)
    assert expectations[0].tiles > 1
    assert expectations[0].overhead > 1
    assert expectations[1].tiles == 1


def test_probes_grow_while_they_are_short_and_not_beyond_a_tile(blur_x2, steady, monkeypatch):
    probe(blur_x2, (100, 40))
    assert max(steady) == 100 * 40
    del steady[:]
    monkeypatch.setattr(expect, "PROBE_S", 64 * 64 * 1e-6)
    probe(blur_x2, (1000, 1000), (8, 6), (1000, 2000))
    assert max(steady) == 64 * 64
    assert min(steady) == 8 * 6
    assert steady.count(64 * 64) == 1 + expect.ROUNDS  # frames of two sizes, one probe


def test_other_work_is_mentioned(blur_x2, steady, monkeypatch):
    assert probe(blur_x2, (8, 8))[1] == []
    monkeypatch.setattr(expect, "disturbance", lambda: "busy")
    assert probe(blur_x2, (8, 8))[1] == ["busy"]


def test_the_share_of_the_peak_is_that_of_the_probe(blur_x2, steady, monkeypatch):
    """162 operations per pixel, a pixel in 1 us: 0.162 of the 1 GFLOPS that the peak is said to have."""
    pytest.importorskip("onnxruntime")
    from esrgan_deploy.backends.ort import OrtSession

    really_infer = OrtSession._infer

    def infer(session, frame):
        steady.append(frame.shape[1] * frame.shape[2])
        return really_infer(session, frame)

    monkeypatch.setattr(OrtSession, "_infer", infer)
    ((expectation,),) = expect.expect(Sweep([blur_x2], ["ort"], shapes=[(64, 64)]), print)
    assert expectation.share_of_peak == pytest.approx(162e6 / 1e9)


def test_a_model_of_one_size_is_asked_for_no_other(blur_x2, steady, monkeypatch):
    monkeypatch.setattr(
        Configuration, "open", lambda _: ReferenceSession(ModelInfo(scale=2, overlap=0, fixed_size=(24, 40)))
    )
    ((expectation,), _) = probe(blur_x2, (40, 24))
    assert set(steady) == {24 * 40}
    assert expectation.tiles == 1
    with pytest.raises(OptionError, match="40x24 only"):
        probe(blur_x2, (24, 40))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (60, "1 min 00 s"),
        (750, "12 min 30 s"),
        (3 * 3600 + 5 * 60 + 20, "3 h 05 min"),
        (2 * 86400 + 4 * 3600 + 1700, "2 d 04 h"),
    ],
)
def test_times_are_spoken(seconds, text):
    assert format_duration(seconds) == text


def test_the_answer_is_told_in_frames_per_second_and_for_the_whole_job(blur_x2):
    setting = Configuration(blur_x2, "auto", "auto", 1, 1, 2)
    expectation = Expectation(setting, "openvino", "fp32", 200, 100, (60, 50), 10, 1e-6, 0.853)
    head, tiled = (" ".join(line.split()) for line in expectation_lines([expectation], frames=250))
    assert head == f"{blur_x2.name}, openvino in fp32, batch 1, streams 1, threads 2"
    assert tiled == "200x100 33.333 fps 85% of peak 250 frames: 7.5 s 10 tiles of 60x50, 1.50x the pixels"


@pytest.mark.parametrize("mode", ["--expect", "--tune"])
def test_a_question_writes_no_files(blur_x2, tmp_path, capsys, mode):
    assert cli.main(["-m", str(blur_x2), mode, "--html", str(tmp_path / "page.html")]) == 2
    assert f"{mode} measures no table; leave out --html" in capsys.readouterr().err
