"""esrgan-bench --compare: what counts as slower, what may be compared, and the exit code."""

import copy
import json
import os

import pytest

from esrgan_bench import cli, compare, measure, peak, rounds
from esrgan_bench.compare import read_older, report_lines
from esrgan_deploy.errors import OptionError
from esrgan_deploy.system.machine import machine_facts


def result(p50=100.0, spread=1.0, runs=100, **changes):
    axes = {"model": "a.onnx", "backend": "openvino", "precision": "fp32", "width": 64, "height": 32}
    axes |= {"batch": 1, "streams": 1, "threads": 2}
    times = {"latency_ms": {"p50": p50, "p90": p50, "p99": p50}, "spread_ms": spread, "runs": runs}
    return {**axes, **times, "flops_per_frame": 1000, **changes}


def content(*results, **changes):
    peaks = [{"backend": "openvino", "precision": "fp32", "side": 12, "chain": 3, "gflops": 100.0}]
    head = {"format": 2, "machine": machine_facts(), "models": {"a.onnx": "one"}, "peaks": peaks}
    return {**copy.deepcopy(head), "results": list(results), **changes}


@pytest.mark.parametrize(
    ("then", "now", "verdict"),
    [
        # Quiet: 3 * sqrt(2) * 1.2533 * 1.4826 * 1 % / sqrt(100) is 0.8 %, so 5 % decide.
        (result(100), result(104.9), "same"),
        (result(100), result(105.1), "slower"),
        (result(100), result(95.3), "same"),
        (result(100), result(95.1), "faster"),
        # The same spread in both, few runs: 3 * sqrt(2) * 1.858 * 10 % / sqrt(4) is 39.4 %.
        (result(100, 10, 4), result(138, 13.8, 4), "same"),
        (result(100, 10, 4), result(141, 14.1, 4), "slower"),
        # The noise of either is enough.
        (result(100, 10, 4), result(120, 0, 4), "same"),
        (result(100, 0, 4), result(120, 12, 4), "same"),
    ],
)
def test_slower_is_what_is_beyond_the_noise_of_both(then, now, verdict):
    (change,) = compare.compare(content(then), content(now)).changes
    assert change.verdict == verdict


def test_results_are_matched_by_all_their_axes():
    different = [{"batch": 2}, {"streams": 2}, {"threads": 1}, {"width": 65}, {"precision": "int8"}, {"backend": "ort"}]
    for axis in different:
        found = compare.compare(content(result()), content(result(**axis)))
        assert found.changes == []
        assert [line.split(":")[0] for line in found.others] == ["only in the older file", "not in the older file"]


def test_another_network_of_the_same_name_is_not_compared():
    found = compare.compare(content(result()), content(result(500, flops_per_frame=2000)))
    assert found.changes == []
    assert "not the network" in found.others[0]


def test_what_may_explain_a_change_is_said():
    machine = {**machine_facts(), "packages": {"numpy": "1.0"}}
    then = content(result(), models={"a.onnx": "other"}, machine=machine)
    now = content(result(140))
    now["peaks"][0]["gflops"] = 70.0
    found = compare.compare(then, now)
    text = "\n".join(report_lines(found, "old.json"))
    assert "a.onnx: the file has changed" in text
    assert "numpy was 1.0, is " in text
    assert "the peak of openvino in fp32 is 0.70x of what it was" in text
    assert "slower  1.40x the time" in text
    assert "1 of 1 slower" in text


def written(tmp_path, what):
    path = tmp_path / "old.json"
    path.write_text(what if isinstance(what, str) else json.dumps(what))
    return path


def test_a_file_that_this_version_wrote_is_read(tmp_path):
    whole = content(result())
    assert read_older(written(tmp_path, whole)) == json.loads(json.dumps(whole))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("{", "no file of esrgan-bench --json, or is damaged"),
        ("[]", "no file of esrgan-bench --json, or is damaged"),
        (content({"model": "a.onnx"}), "no file of esrgan-bench --json, or is damaged"),
        (content(result(0)), "no file of esrgan-bench --json, or is damaged"),
        (content(format=1), "format 1, this version compares 2"),
        (content(machine={**machine_facts(), "cpu": "Z80"}), r"another machine \(cpu 'Z80' there, "),
        (content(machine={**machine_facts(), "cores_usable": 1000}), r"cores_usable 1000 there, "),
        (content(machine={**machine_facts(), "gpu": {"name": "Voodoo"}}), "GPU 'Voodoo' there, "),
    ],
)
def test_a_file_that_cannot_be_compared_is_refused_in_one_line(tmp_path, what, said):
    with pytest.raises(OptionError, match=said) as refusal:
        read_older(written(tmp_path, what))
    assert "old.json" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused_before_anything_runs(blur_x2, tmp_path, capsys):
    assert cli.main(["-m", str(blur_x2), "--compare", str(tmp_path / "none.json")]) == 2
    captured = capsys.readouterr()
    assert "none.json: cannot be read" in captured.err
    assert captured.out == ""


@pytest.fixture
def run(blur_x2, monkeypatch, tmp_path):
    """The command on a clock that says what it is told to; the machine's peak is not measured."""

    def command(seconds, *arguments, shape="8x8"):
        def seconds_of(call):
            call()
            return seconds

        monkeypatch.setattr(rounds, "seconds_of", seconds_of)
        monkeypatch.setattr(peak, "measure_peak", lambda *_: None)
        monkeypatch.setattr(measure, "disturbance", lambda: None)
        monkeypatch.setattr(measure, "copy_bandwidth_gb_s", lambda: 1.0)
        case = ["-m", str(blur_x2), "-b", "reference", "--shapes", shape, "--seconds", "0"]
        return cli.main([*case, *map(str, arguments)])

    return command


def test_the_exit_code_tells_of_a_regression(run, tmp_path, capsys):
    old = tmp_path / "old.json"
    assert run(0.010, "--json", old) == 0
    assert run(0.010, "--compare", old) == 0
    assert run(0.020, "--compare", old) == cli.SLOWER == 4
    assert "slower  2.00x the time" in capsys.readouterr().out
    assert run(0.005, "--compare", old) == 0
    assert run(0.010, "--compare", old, shape="9x9") == 2
    assert "holds nothing of what was measured now" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damaged",
    [
        "[" * 100_000,
        '{"format": ' + "9" * 5000 + "}",
        "\ud800".encode("utf-8", "surrogatepass"),
        content(machine=[]),
        content(machine={**machine_facts(), "gpu": "none"}),
        content(models=[]),
        content(result(p50=0)),
        content(result(p50=float("nan"))),
        content(result(p50=10**400)),
        content(result(p50="100")),
        content(result(runs=-1)),
        content(result(spread=float("inf"))),
        content(result(model=["a"])),
        content(peaks=[{"backend": "ort", "precision": "fp32", "gflops": 0}]),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path, damaged):
    path = tmp_path / "old.json"
    path.write_bytes(
        damaged
        if isinstance(damaged, bytes)
        else (damaged if isinstance(damaged, str) else json.dumps(damaged)).encode()
    )
    with pytest.raises(OptionError, match=r"old\.json: is no file of esrgan-bench"):
        read_older(path)


@pytest.mark.unix("makes a pipe")
def test_a_pipe_is_no_older_file(tmp_path):
    os.mkfifo(tmp_path / "old.json")
    with pytest.raises(OptionError, match="a pipe"):
        read_older(tmp_path / "old.json")
