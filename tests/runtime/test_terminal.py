"""What comes from outside reaches a terminal as text: each outlet with escape sequences, and with broken streams."""

import json
import logging
import os
import re
import subprocess
import sys
import warnings

import cv2
import numpy as np
import pytest

from esrgan_deploy import cli
from esrgan_deploy.cli import terminal
from esrgan_deploy.cli.guard import Guard
from esrgan_deploy.cli.progress import BuildProgress, DownloadProgress, Progress
from esrgan_deploy.cli.upscale import main
from esrgan_deploy.errors import OutputError

NASTY = "a\x1b]0;b\x07\x9b31m\u202ec\n\r\u2066d\udcff\ud800e\u2028"
SHOWN = r"a\x1b]0;b\x07\x9b31m\u202ec\n\r\u2066d\xff\ud800e\u2028"
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
COMMANDS = {
    "esrgan-upscale": "esrgan_deploy.cli.upscale",
    "esrgan-engine": "esrgan_deploy.cli.engine",
    "esrgan-bench": "esrgan_bench.cli",
    "esrgan-export": "esrgan_export.cli.export",
    "esrgan-eval": "esrgan_export.cli.eval",
    "esrgan-train": "esrgan_train.cli",
}


def shell(command, arguments="", streams="", **options):
    """Run a command as a process of its own, with its streams redirected as a shell does it."""
    start = f"import sys; sys.argv[0] = '{command}'; from {COMMANDS[command]} import main; sys.exit(main())"
    return subprocess.run(
        f'"{sys.executable}" -c "{start}" {arguments} {streams}', shell=True, capture_output=True, text=True, **options
    )


@pytest.fixture
def picture(tmp_path, rng):
    path = tmp_path / "in.png"
    cv2.imwrite(str(path), rng.integers(0, 256, (12, 16, 3)).astype(np.uint8))
    return path


def test_ordinary_text_stays_as_it_is():
    for text in (
        "out.png: 1280x720",
        "Größe 写真 🎬 ± ·",
        "\u0631\u0627 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "50\u00a0%",
        "👨\u200d👩",
        r"C:\new\x1b.png",
    ):
        assert terminal.printable(text) == text


def test_everything_that_a_terminal_obeys_is_escaped():
    assert terminal.printable(NASTY) == SHOWN
    for code in (*range(32), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x2028, 0xD800, 0xDC80, 0xE0001, 0xFEFF):
        assert terminal.printable(chr(code)).isascii(), hex(code)


@pytest.mark.parametrize("letter", ["x", "\x1b", "\u202e"])
def test_no_line_fills_the_terminal(letter):
    assert len(terminal.printable(letter * 100_000)) < 4200


@pytest.mark.parametrize("outlet", [terminal.say, terminal.done, terminal.note])
def test_what_is_printed_is_one_line(outlet, capsys):
    outlet(NASTY)
    printed = capsys.readouterr()
    assert (printed.out + printed.err).splitlines() == [SHOWN]


def run_nasty(command):
    return cli.run(lambda: cli.Parser("esrgan-test", "A test."), command, [])


def test_errors_logs_and_warnings_of_a_command_are_escaped(capsys):
    def command(_args):
        logging.getLogger("esrgan_deploy.test").warning("logged %s", NASTY)
        logging.getLogger("library").error("library %s", NASTY)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(NASTY, stacklevel=1)
        raise OutputError(f"{NASTY}: no")

    assert run_nasty(command) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [f"logged {SHOWN}", f"library {SHOWN}"]
    assert lines[2].startswith("warning: a")
    assert lines[3] == f"esrgan-test: {SHOWN}: no"
    assert not OBEYED.search("".join(lines))


@pytest.mark.internal_error
def test_a_traceback_is_escaped(capsys):
    def command(_args):
        raise KeyError(f"x{NASTY}")

    assert cli.run(lambda: cli.Parser("esrgan-test", "A test."), command, ["--debug"]) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert not OBEYED.search(printed)


def test_arguments_are_escaped_and_cut(capsys):
    for arguments in ([NASTY, "-o"], ["x", "-o", "y", "--batch", NASTY], ["x", "-o", "y", f"--{NASTY}"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    with pytest.raises(SystemExit):
        main(["x", "-o", "y", "--batch", "9" * 100_000])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert not OBEYED.search("".join(lines))
    assert max(map(len, lines)) < 1000


def test_the_guard_and_progress_are_escaped(capfd, monkeypatch):
    monkeypatch.setattr("esrgan_deploy.cli.progress.SECONDS_BETWEEN_LINES", -1.0)
    Guard("esrgan-test", 0, None)._write(NASTY)
    with BuildProgress() as progress:
        progress(NASTY, 1, 2)
        progress(NASTY, 0, 0)
    with Progress("frame") as progress:
        progress(1, 2, NASTY)
    printed = capfd.readouterr().err
    assert len(printed.splitlines()) == 4
    assert not OBEYED.search(printed)


@pytest.mark.parametrize("kind", [BuildProgress, DownloadProgress])
def test_a_bar_is_escaped(capsys, monkeypatch, kind):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with kind() as progress:
        progress(NASTY, 1, 2)
        progress("inner", 1, 2)
    printed = capsys.readouterr().err.replace("\r", "").replace("\x1b[A", "")
    assert "a\\x1b]0;b" in printed
    assert not OBEYED.search(printed)


def test_a_download_is_told_in_mebibytes(capsys, monkeypatch):
    monkeypatch.setattr("esrgan_deploy.cli.progress.SECONDS_BETWEEN_LINES", -1.0)
    with DownloadProgress() as progress:
        progress("net.bin", 3 << 19, 5 << 20)
        progress("net.bin is here", 0, 0)
    assert capsys.readouterr().err.splitlines() == ["net.bin: 1.5 of 5.0 MiB", "net.bin is here"]


def test_each_download_has_a_bar_of_its_own(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with DownloadProgress() as progress:
        progress("net.param", 512, 1024)
        progress("net.bin", 1 << 20, 4 << 20)
    printed = capsys.readouterr().err
    assert "net.param:  50%" in printed
    assert "net.bin:  25%" in printed


@pytest.mark.unix("has names that are no UTF-8")
def test_a_name_that_is_no_utf_8_is_written_and_said(picture, tmp_path):
    folder = os.fsencode(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-m", "esrgan_deploy.cli.upscale"], cwd=tmp_path, capture_output=True
    )  # no main guard: nothing happens
    assert ended.returncode == 0
    start = "import sys; from esrgan_deploy.cli.upscale import main; sys.exit(main())"
    name = os.path.join(folder, b"\xff\x1b[31m.png")  # noqa: PTH118  # bytes
    ended = subprocess.run(
        [sys.executable, "-c", start, picture, "-o", name, "-b", "reference"], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout.rpartition("/")[2]) == (0, "\\xff\\x1b[31m.png: 64x48\n")
    assert os.path.exists(name)  # noqa: PTH110


@pytest.mark.unix("closes the streams of a process")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("streams", ["<&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", ">&-", ">/dev/full"])
def test_help_with_a_broken_stream(command, streams):
    """What was asked for is the help: without it, exit code 2 and one line, if there is somebody to tell."""
    ended = shell(command, "--help", streams)
    broken = ">&-" in streams.replace("2>&-", "") or streams == ">/dev/full"
    assert ended.returncode == (2 if broken else 0)
    told = broken and "2>" not in streams
    assert len(ended.stderr.splitlines()) == (1 if told else 0)
    assert ended.stderr.startswith(f"{command}: standard output: cannot be written" if told else "")


@pytest.mark.unix("closes the streams of a process")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", "2>&1 | true", ""])
def test_a_wrong_argument_with_a_broken_stream(command, streams):
    ended = shell("esrgan-upscale" if streams.endswith("true") else command, "--nonsense", streams)
    assert ended.returncode == (0 if streams.endswith("true") else 2)
    assert len(ended.stderr.splitlines()) == (0 if streams else 1)


@pytest.mark.unix("has readers that go away")
def test_a_reader_that_goes_away(tmp_path):
    ended = shell("esrgan-bench", "--help", "| head -1; exit ${PIPESTATUS[0]}", executable="/bin/bash")
    assert ended.returncode in (0, 2)  # 0: all was in the pipe before head went away
    ended = shell("esrgan-upscale", "--help", "| (exec <&-; sleep 2); exit ${PIPESTATUS[0]}", executable="/bin/bash")
    assert ended.returncode in (0, 2)
    assert len(ended.stderr.splitlines()) <= 1


@pytest.mark.unix("closes the streams of a process")
@pytest.mark.parametrize("streams", [">&-", ">/dev/full", "2>&-", "2>/dev/full", "<&-", "<&- >&- 2>&-"])
def test_a_finished_picture_is_no_failure(picture, tmp_path, streams):
    """Nor is what is said written into it, where it got the number of a stream that was closed."""
    expected, made = tmp_path / "expected.png", tmp_path / "made.png"
    assert main([str(picture), "-o", str(expected), "-b", "reference"]) == 0
    ended = shell("esrgan-upscale", f"{picture} -o {made} -b reference", streams)
    assert ended.returncode == 0, ended.stderr
    assert made.read_bytes() == expected.read_bytes()


@pytest.mark.unix("closes the streams of a process")
@pytest.mark.parametrize(
    ("arguments", "streams", "said"),
    [
        ("- -o {0}/o.mkv", "<&-", "standard input|-: "),
        ("{0}/in.y4m -o -", ">&-", "standard output|-: "),
        ("{0}/in.y4m -o -", ">/dev/full", "standard output: "),
    ],
)
def test_frames_through_a_broken_stream(tmp_path, arguments, streams, said):
    (tmp_path / "in.y4m").write_bytes(b"YUV4MPEG2 W16 H16 F25:1 C420jpeg\n" + (b"FRAME\n" + bytes(384)) * 3)
    ended = shell("esrgan-upscale", f"{arguments.format(tmp_path)} -b reference", streams)
    assert ended.returncode == 2, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("esrgan-upscale: ")
    assert re.search(said, last), last
    assert not (tmp_path / "o.mkv").exists()


def test_a_page_and_a_table_hold_names_as_text(tmp_path):
    from esrgan_bench.markdown import _escaped
    from esrgan_export.evaluation.mos import Opinion, tally_table

    assert terminal.html_text("<b>\x1b\u202e\"'") == "&lt;b&gt;\\x1b\\u202e&quot;&#x27;"
    assert not OBEYED.search(_escaped(NASTY))
    assert not OBEYED.search(tally_table([Opinion(NASTY, 1.0, 0.1, 3)], 1))
    assert json.loads(json.dumps(NASTY)) == NASTY
