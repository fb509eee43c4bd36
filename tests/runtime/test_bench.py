"""esrgan-bench: percentiles, memory, facts of the machine, the JSON, interruptions, bad input.

Times are never measured here: `seconds_of` is replaced, so that every figure has one right value.
"""

import hashlib
import json
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from esrgan_bench import cli, measure, peak, rounds
from esrgan_bench.cases import Sweep, list_cases
from esrgan_bench.report import percentiles_ms, spread_ms
from esrgan_deploy import ModelInfo
from esrgan_deploy.errors import ModelError
from esrgan_deploy.system import machine
from esrgan_deploy.system.cpu import default_threads
from tiny_onnx import write_onnx

# --- statistics -----------------------------------------------------------------------------------------------------


def test_percentiles():
    milliseconds = np.random.default_rng(0).permutation(np.arange(1, 102))  # 1 ... 101: the p-th percentile is p + 1
    found = percentiles_ms(milliseconds / 1000)
    assert found == pytest.approx({"p50": 51, "p90": 91, "p99": 100})


def test_an_outlier_does_not_move_the_spread():
    assert spread_ms([0.010, 0.011, 0.013, 0.014, 5.0]) == pytest.approx(2)  # 3, 2, 0, 1 and a lot from 13


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Every run takes 0.25 s, says the clock; it can be told to be interrupted at its n-th reading."""

    class Clock:
        readings = 0
        peaks_measured = 0
        interrupted_at = None

        def __call__(self, call):
            call()
            self.readings += 1
            if self.readings == self.interrupted_at:
                raise KeyboardInterrupt
            return 0.25

        def measure_peak(self, backend, precision, longest_run_s):
            self.peaks_measured += 1
            return peak.Peak(backend, precision, side=12, chain=3, gflops=0.001)

    fake = Clock()
    monkeypatch.setattr(rounds, "seconds_of", fake)
    monkeypatch.setattr(measure, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(peak, "measure_peak", fake.measure_peak)
    monkeypatch.setattr(measure, "copy_bandwidth_gb_s", lambda: 12.5)
    monkeypatch.setattr(measure, "disturbance", lambda: None)
    return fake


def test_figures_follow_from_the_times(blur_x2, tmp_path, clock, capsys):
    pytest.importorskip("onnxruntime")
    target = tmp_path / "figures.json"
    arguments = [
        "-m",
        str(blur_x2),
        "-b",
        "ort",
        "--shapes",
        "20x10",
        "8x8",
        "--batch",
        "1",
        "2",
        "--json",
        str(target),
    ]
    assert cli.main(arguments) == 0
    report = json.loads(target.read_text())
    assert report["complete"] is True
    assert clock.peaks_measured == 1
    assert report["command"] == " ".join(["esrgan-bench", *arguments])
    assert report["peaks"] == [{"backend": "ort", "precision": "fp32", "side": 12, "chain": 3, "gflops": 0.001}]
    lines = [(r["width"], r["height"], r["batch"]) for r in report["results"]]
    assert lines == [(20, 10, 1), (8, 8, 1), (20, 10, 2), (8, 8, 2)]
    third = report["results"][2]
    assert (third["model"], third["backend"], third["precision"]) == (blur_x2.name, "ort", "fp32")
    assert (third["streams"], third["threads"], third["runs"]) == (1, default_threads(), measure.LEAST_RUNS)
    assert third["latency_ms"] == {"p50": 250.0, "p90": 250.0, "p99": 250.0}
    assert third["spread_ms"] == 0
    assert third["fps"] == pytest.approx(2 / 0.25)
    assert third["flops_per_frame"] == 200 * 162
    assert third["gflops"] == pytest.approx(8 * 200 * 162 / 1e9)
    assert third["share_of_peak"] == pytest.approx(8 * 200 * 162 / 1e9 / 0.001)
    # Read by the convolution, written, read by the resizing, written; and 3 * 3 * 9 weights.
    assert third["bytes_per_frame"] == 4 * (3 * 200 * (1 + 1 + 1 + 4) + 81)
    assert 0 < third["rss_mib"]["now"] <= third["rss_mib"]["peak"]
    assert report["bandwidth_gb_s"] == 12.5
    assert report["models"] == {blur_x2.name: hashlib.sha256(blur_x2.read_bytes()).hexdigest()}
    row = capsys.readouterr().out.splitlines()[3].split()
    assert row[:9] == [blur_x2.name, "ort", "fp32", "20x10", "2", "1", str(default_threads()), "5", "250.0"]
    assert row[12:15] == ["8.000", "0.0", "25.9%"]


def test_a_peak_that_cannot_be_measured_costs_no_figures(blur_x2, tmp_path, clock, monkeypatch, capsys):
    def fail(*_):
        raise ModelError("no such product")

    monkeypatch.setattr(peak, "measure_peak", fail)
    target = tmp_path / "figures.json"
    assert cli.main(["-m", str(blur_x2), "-b", "ort", "--shapes", "8x8", "9x9", "--json", str(target)]) == 0
    report = json.loads(target.read_text())
    assert [(r["runs"], r["share_of_peak"]) for r in report["results"]] == [(5, None), (5, None)]
    assert report["peaks"] == []
    assert capsys.readouterr().err == "esrgan-bench: the peak of ort in fp32 is unknown: no such product\n"


def test_the_markdown_table_has_what_the_json_has(blur_x2, tmp_path, clock):
    model = tmp_path / "a|b_c.onnx"
    model.write_bytes(blur_x2.read_bytes())
    table = tmp_path / "figures.md"
    assert cli.main(["-m", str(model), "-b", "ort", "--shapes", "20x10", "--markdown", str(table)]) == 0
    head, rule, row, rest = table.read_text().split("\n", 3)
    titles, rules, cells = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in (head, rule, row))
    found = dict(zip(titles, cells, strict=True))
    assert found["model"] == r"a\|b\_c.onnx"
    assert (found["backend"], found["type"], found["size"], found["batch"]) == ("ort", "fp32", "20x10", "1")
    assert found["p50 / p90 / p99 ms"] == "250.0 / 250.0 / 250.0"
    assert (found["fps"], found["of peak"], found["J/frame"]) == ("4.000", "13.0%", "-")
    assert rules.index("---:") == titles.index("batch")
    for said in (
        "median absolute deviation",
        machine.machine_facts()["cpu"],
        "Peak of ort in fp32: 0.0 GFLOPS",
        "RAPL",
    ):
        assert said in rest
    assert "Interrupted" not in rest


def test_int8_is_measured_on_the_artefact_beside_the_model(blur_x2, tmp_path):
    float_file, int8_file = tmp_path / "x_fp32.onnx", tmp_path / "x_int8.onnx"
    for path, precision in ((float_file, "fp32"), (int8_file, "int8")):
        model = onnx.load(blur_x2)
        helper.set_model_props(model, ModelInfo(scale=2, overlap=2, precision=precision).to_metadata())
        onnx.save(model, path)
    cases = list_cases(Sweep([float_file, int8_file], ["ort"], ["fp32", "int8"], shapes=[(8, 8)]))
    assert [(case.config.model, case.config.precision) for case in cases] == [
        *[(float_file, "fp32"), (int8_file, "int8")],
        (int8_file, "fp32"),
    ]


def test_padding_to_a_multiple_is_counted_because_it_is_computed(unshuffle_x2):
    (case,) = list_cases(Sweep([unshuffle_x2], ["ort"], shapes=[(7, 5)]))
    assert case.cost.flops == 2 * (8 // 2) * (6 // 2) * 12 * 48


def test_the_reference_backend_claims_no_arithmetic(blur_x2, tmp_path, clock):
    target = tmp_path / "figures.json"
    assert cli.main(["-m", str(blur_x2), "-b", "reference", "--shapes", "8x8", "--json", str(target)]) == 0
    (result,) = json.loads(target.read_text())["results"]
    assert (result["flops_per_frame"], result["gflops"], result["share_of_peak"]) == (None, None, None)


@pytest.mark.parametrize(("at", "runs"), [(2 + 5 + 2 + 3, [5, 2]), (2 + 5 + 1, [5]), (2 + 3, [2])])
def test_an_interrupted_benchmark_keeps_what_was_measured(blur_x2, tmp_path, clock, capsys, at, runs):
    pytest.importorskip("matplotlib", reason="the page is drawn with the 'bench' extra")
    clock.interrupted_at = at
    target = tmp_path / "figures.json"
    table, page = tmp_path / "figures.md", tmp_path / "figures.html"
    files = ["--json", str(target), "--markdown", str(table), "--html", str(page)]
    assert cli.main(["-m", str(blur_x2), "-b", "reference", "--shapes", "8x8", "9x9", *files]) == 130
    assert f"what was measured is in {target}, {table}, {page}" in capsys.readouterr().err
    assert table.read_text().count("| reference |") == len(runs)
    assert "Interrupted" in table.read_text()
    assert page.read_text().count("9x9") > 0 or len(runs) == 1
    report = json.loads(target.read_text())
    assert report["complete"] is False
    assert [result["runs"] for result in report["results"]] == runs


def test_a_failure_keeps_what_was_measured_before(blur_x2, tmp_path, clock, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    target = tmp_path / "figures.json"
    bf16 = write_bf16(tmp_path / "bf16.onnx")
    arguments = ["-m", str(blur_x2), str(bf16), "-b", "ort", "--shapes", "8x8", "--json", str(target)]
    assert cli.main(arguments) == 2
    report = json.loads(target.read_text())
    assert report["complete"] is False
    assert [result["model"] for result in report["results"]] == [blur_x2.name]
    assert "bf16.onnx" in capsys.readouterr().err


def write_bf16(path):
    node = helper.make_node("Identity", ["input"], ["output"])
    info = ModelInfo(scale=1, precision="bf16")
    return write_onnx(path, [node], {}, info, element=TensorProto.BFLOAT16)


@pytest.mark.parametrize("at", [None, 1])
def test_a_benchmark_without_a_result_leaves_an_older_file_alone(blur_x2, tmp_path, clock, at):
    clock.interrupted_at = at
    target = tmp_path / "figures.json"
    target.write_text("older")
    model = blur_x2 if at else tmp_path / "missing.onnx"
    assert cli.main(["-m", str(model), "-b", "reference", "--shapes", "8x8", "--json", str(target)]) != 0
    assert target.read_text() == "older"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-m", "missing.onnx"], 2, "missing.onnx"),
        (["-m", "MODEL", "-b", "cpu"], 2, "'cpu'"),
        (["-m", "MODEL", "--shapes", "12by3"], 2, "'12by3' is not WIDTHxHEIGHT"),
        (["-m", "MODEL", "--shapes", "0x3"], 2, "'0x3'"),
        (["-m", "MODEL", "--batch", "0"], 2, "'0' is not a number of frames"),
        (["-m", "MODEL", "--json", "FOLDER"], 2, "is a folder"),
        (["-m", "MODEL", "--json", "FOLDER/none/f.json"], 2, "does not exist"),
        (["-m", "TEXT"], 2, "is not an ONNX file"),
    ],
)
def test_bad_input_is_answered_in_one_line_before_anything_runs(blur_x2, tmp_path, capsys, arguments, code, said):
    text = tmp_path / "text.onnx"
    text.write_text("hello")
    filled = [
        a.replace("MODEL", str(blur_x2)).replace("FOLDER", str(tmp_path)).replace("TEXT", str(text)) for a in arguments
    ]
    try:
        found = cli.main(filled)
    except SystemExit as stop:  # argparse's own way out
        found = stop.code
    captured = capsys.readouterr()
    assert found == code
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_help_states_the_least_that_is_run():
    assert f"at least {measure.LEAST_RUNS} and at least {measure.LEAST_SECONDS:.0f} seconds" in cli.EPILOG


# --- what is too large ----------------------------------------------------------------------------------------------

MANY = "9" * 5000


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shapes", "99999999x1"],
        ["--shapes", f"{MANY}x1"],
        ["--batch", "9999999999"],
        ["--streams", MANY],
        ["--threads", MANY],
        ["--seconds", MANY],
        ["--expect", MANY],
    ],
)
def test_numbers_that_nobody_means_are_no_options(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["-b", "reference", "--shapes", "999999x999999"],
        ["-b", "reference", "--batch", "999999999"],
        ["-b", "reference", "--expect", "--batch", "999999999"],
        ["--shapes", "999999x999999"],
    ],
)
def test_frames_that_do_not_fit_into_memory_are_refused_before_they_are_made(arguments, capsys):
    assert cli.main(arguments) == 3
    assert "of memory" in capsys.readouterr().err.splitlines()[-1]
