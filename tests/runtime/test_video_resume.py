"""Whatever kills a run, what was finished stays finished, and the file comes out as if nothing had happened."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from children import popen
from clips import nearest, times, write_clip
from esrgan_deploy import Upscaler
from esrgan_deploy.backends.reference import ReferenceSession
from esrgan_deploy.errors import MediaError, OutputError
from esrgan_deploy.model import ModelInfo
from esrgan_deploy.video import VideoOptions, parts_of, upscale_video
from esrgan_deploy.video.output.checkpoint import open_checkpoint
from esrgan_deploy.video.output.segment_file import SegmentRecord
from esrgan_deploy.video.run.finish import missing
from esrgan_deploy.video.run.job import prepare_job

BUNNY = Path(__file__).parent.parent / "data" / "bigbuckbunny.mp4"
SEGMENT = 8
OPTIONS = VideoOptions(segment_frames=SEGMENT)


class Interrupted(Exception):  # noqa: N818
    pass


def interrupt_at(count):
    def progress(done, total):
        if done == count:
            raise Interrupted

    return progress


def interrupted(source, target, count, options=OPTIONS, upscaler=None):
    """Run until `count` frames are upscaled; gives the number of finished segments."""
    with pytest.raises(Interrupted):
        upscale_video(source, target, upscaler or nearest(2), options, progress=interrupt_at(count))
    return len(journal_lines(target)) - 1 if parts_of(target).exists() else 0


def journal_lines(target):
    return (parts_of(target) / "journal.jsonl").read_bytes().splitlines()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of an uninterrupted run, by suffix."""
    folder = tmp_path_factory.mktemp("whole")
    made = {}
    for suffix in (".mp4", ".mkv", ".mov"):
        path = folder / f"out{suffix}"
        upscale_video(BUNNY, path, nearest(2), OPTIONS)
        made[suffix] = path.read_bytes()
    return made


class Counting(ReferenceSession):
    """Counts the frames that it computes."""

    def __init__(self):
        super().__init__(ModelInfo(scale=2, overlap=0))
        self.computed = 0

    def _infer(self, frame):
        self.computed += 1
        return super()._infer(frame)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_resumed_file_is_byte_for_byte_the_uninterrupted_one(tmp_path, whole, suffix):
    target = tmp_path / f"out{suffix}"
    finished = interrupted(BUNNY, target, 30)
    assert 2 <= finished <= 3, "30 frames are in work, a few of them in encoders and queues"
    assert not target.exists()
    session = Counting()
    summary = upscale_video(BUNNY, target, Upscaler(session, tile=0), OPTIONS, resume=True)
    assert target.read_bytes() == whole[suffix]
    assert session.computed == 50 - finished * SEGMENT, "no finished frame is done again"
    assert (summary.frames, summary.computed) == (50, 50 - finished * SEGMENT)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("codec", ["h264", "h265", "av1"])
def test_every_encoder_gives_the_same_bytes_again(tmp_path, codec):
    options = dataclasses.replace(OPTIONS, codec=codec)
    upscale_video(BUNNY, tmp_path / "a.mp4", nearest(2), options)
    interrupted(BUNNY, tmp_path / "b.mp4", 25, options)
    upscale_video(BUNNY, tmp_path / "b.mp4", nearest(2), options, resume=True)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.linux("sets the affinity of a process")
def test_the_cores_of_the_machine_do_not_change_the_file(tmp_path, whole):
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from pathlib import Path\n"
        "from clips import nearest; from esrgan_deploy.video import VideoOptions, upscale_video\n"
        f"source, target = Path({str(BUNNY)!r}), Path({str(tmp_path / 'out.mp4')!r})\n"
        "upscale_video(source, target, nearest(2), VideoOptions(segment_frames=8))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
    assert (tmp_path / "out.mp4").read_bytes() == whole[".mp4"]


def command_line(target, *more):
    program = "import sys; from esrgan_deploy.cli.upscale import main; sys.exit(main())"
    return [sys.executable, "-c", program, str(BUNNY), "-o", str(target), "-b", "reference", "--segment", "5", *more]


def wait_for_lines(child, target, count):
    """Wait until the journal has `count` lines or the process has ended."""
    journal = parts_of(target) / "journal.jsonl"
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        if journal.exists() and len(journal.read_bytes().splitlines()) >= count:
            return
        time.sleep(0.002)


@pytest.mark.unix("tells a killed process by its signal")
@pytest.mark.slow
def test_sigkill_at_random_moments(tmp_path):
    """The command itself, killed again and again until it gets through."""
    chance = random.Random(5)
    target, reference = tmp_path / "out.mp4", tmp_path / "reference.mp4"
    subprocess.run(command_line(reference), check=True, capture_output=True)
    kills = 0
    for finished in range(2, 12, 2):
        with popen(command_line(target, "--resume"), stderr=subprocess.DEVNULL) as child:
            wait_for_lines(child, target, finished)
            time.sleep(chance.uniform(0, 0.1))
            child.kill()
        kills += child.returncode == -signal.SIGKILL
    subprocess.run(command_line(target, "--resume"), check=True, capture_output=True)
    assert kills >= 3
    assert target.read_bytes() == reference.read_bytes()
    assert not parts_of(target).exists()


def test_a_plain_run_offers_to_go_on(tmp_path):
    target = tmp_path / "out.mp4"
    finished = interrupted(BUNNY, target, 30)
    with pytest.raises(OutputError, match=rf"out\.mp4\.parts holds {finished} finished.*--resume, or delete"):
        upscale_video(BUNNY, target, nearest(2), OPTIONS)
    assert len(journal_lines(target)) == finished + 1


@pytest.mark.parametrize(
    ("options", "scale", "name"),
    [
        ({"quality": 30}, 2, "crf"),
        ({"codec": "h265"}, 2, "codec"),
        ({"segment_frames": 9}, 2, "segment"),
        ({"frames": (0, 40)}, 2, "frames"),
        ({"duration_s": 1.0}, 2, "duration"),
        ({"deinterlace": True}, 2, "deinterlace"),
        ({}, 3, "scale"),
    ],
)
def test_another_run_is_noticed(tmp_path, options, scale, name):
    target = tmp_path / "out.mp4"
    interrupted(BUNNY, target, 30)
    with pytest.raises(OutputError, match=f"of a run with another {name} .*name another output, or delete that folder"):
        upscale_video(BUNNY, target, nearest(scale), dataclasses.replace(OPTIONS, **options), resume=True)


def test_another_input_is_noticed(tmp_path):
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_clip(source, range(0, 40 * 512, 512))
    interrupted(source, target, 30)
    write_clip(source, range(0, 40 * 512, 512), options={"qp": "33"})
    with pytest.raises(OutputError, match="of a run with another input"):
        upscale_video(source, target, nearest(2), OPTIONS, resume=True)


def test_another_model_is_noticed(tmp_path, blur_x2):
    other = tmp_path / "other.onnx"
    other.write_bytes(blur_x2.read_bytes().replace(b"blurred", b"smeared"))
    from esrgan_deploy import open_session

    target = tmp_path / "out.mp4"
    with Upscaler(open_session(blur_x2, "ort")) as upscaler:
        interrupted(BUNNY, target, 30, upscaler=upscaler)
    with Upscaler(open_session(other, "ort")) as upscaler, pytest.raises(OutputError, match="another model_sha256"):
        upscale_video(BUNNY, target, upscaler, OPTIONS, resume=True)


def break_last_line(folder):
    with (folder / "journal.jsonl").open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 40)


def break_a_segment(folder):
    path = folder / "000000.packets"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lose_a_segment(folder):
    (folder / "000001.packets").unlink()


def leave_rubbish(folder):
    (folder / "000077.packets").write_bytes(b"of a run whose journal was lost")
    (folder / ".000003.part").write_bytes(b"half")


@pytest.mark.parametrize("harm", [break_last_line, break_a_segment, lose_a_segment, leave_rubbish])
def test_what_a_power_cut_leaves_is_never_trusted(tmp_path, whole, harm):
    target = tmp_path / "out.mp4"
    interrupted(BUNNY, target, 34)
    harm(parts_of(target))
    upscale_video(BUNNY, target, nearest(2), OPTIONS, resume=True)
    assert target.read_bytes() == whole[".mp4"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_journal_that_is_only_begun_is_no_obstacle(tmp_path, whole):
    target = tmp_path / "out.mp4"
    interrupted(BUNNY, target, 30)
    with (parts_of(target) / "journal.jsonl").open("r+b") as file:
        file.truncate(20)
    for path in parts_of(target).glob("*.packets"):
        path.unlink()
    upscale_video(BUNNY, target, nearest(2), OPTIONS)
    assert target.read_bytes() == whole[".mp4"]


def test_two_processes_do_not_write_one_target(tmp_path):
    target = tmp_path / "out.mp4"
    with open_checkpoint(target, {}, resume=False):
        with pytest.raises(OutputError, match=r"out\.mp4: another process is writing it"):
            upscale_video(BUNNY, target, nearest(2), OPTIONS)
        assert parts_of(target).exists(), "the other process's"


def test_an_unwritable_journal(tmp_path):
    target = tmp_path / "out.mp4"
    parts_of(target).write_bytes(b"a file where the folder should be")
    with pytest.raises(OutputError, match=r"out\.mp4\.parts: is a file, where a folder of this program belongs; name"):
        upscale_video(BUNNY, target, nearest(2), OPTIONS)
    assert not target.exists()


def test_the_journal_is_written_after_its_segment(tmp_path):
    """At every moment: what the journal lists is on the disk, whole."""
    target = tmp_path / "out.mp4"

    def check(done, total):
        for line in journal_lines(target)[1:]:
            record = json.loads(line)
            assert (parts_of(target) / f"{record['index']:06}.packets").stat().st_size == record["bytes"]

    upscale_video(BUNNY, target, nearest(2), OPTIONS, progress=check)


def test_a_segment_that_is_interrupted_leaves_nothing(tmp_path):
    target = tmp_path / "o.mp4"
    with open_checkpoint(target, {}, resume=False) as checkpoint:
        with checkpoint.file(0) as file:
            file.write(b"whole")
        with pytest.raises(KeyboardInterrupt), checkpoint.file(1) as file:
            file.write(b"half")
            raise KeyboardInterrupt
        assert {path.name for path in parts_of(target).iterdir()} == {
            *("journal.jsonl", "000000.packets", "lock", ".esrgan-deploy")
        }
        assert (parts_of(target) / "000000.packets").read_bytes() == b"whole"


@pytest.mark.unix("limits the size of files with setrlimit")
def test_a_full_disk_keeps_what_is_finished(tmp_path, whole):
    """A limit on the size of files stops the third segment, in which the frames change."""
    target = tmp_path / "out.mp4"
    code = (
        "import resource; from pathlib import Path; from clips import nearest\n"
        "from esrgan_deploy.video import VideoOptions, upscale_video\n"
        "def limit(done, total):\n"
        "    if done == 33: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"source, target = Path({str(BUNNY)!r}), Path({str(target)!r})\n"
        "upscale_video(source, target, nearest(2), VideoOptions(segment_frames=8), progress=limit)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    last = run.stderr.rstrip().splitlines()[-1]
    assert last.startswith(f"esrgan_deploy.errors.OutputError: {parts_of(target)}"), run.stderr
    assert "File too large" in last
    assert len(journal_lines(target)) >= 3
    upscale_video(BUNNY, target, nearest(2), OPTIONS, resume=True)
    assert target.read_bytes() == whole[".mp4"]


def test_damage_is_remembered(tmp_path):
    """Killed after the damaged segment and before the target: the run must not go on after the damage."""
    source, target = tmp_path / "in.mkv", tmp_path / "out.mp4"
    write_clip(source, range(0, 60 * 512, 512), options={"g": "10"})
    data = bytearray(source.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = random.Random(1).randbytes(40)
    source.write_bytes(data)
    with pytest.raises(MediaError, match=r"damaged after.*out\.mp4 holds the (\d+) frames before that") as caught:
        upscale_video(source, target, nearest(2), OPTIONS)
    kept, frames = target.read_bytes(), len(times(target))
    assert f"holds the {frames} frames" in str(caught.value)
    assert SEGMENT < frames < 40
    target.unlink()
    interrupted_at_the_end = interrupt_at(frames)
    with pytest.raises(Interrupted):
        upscale_video(source, target, nearest(2), OPTIONS, progress=interrupted_at_the_end)
    with pytest.raises(MediaError, match="damaged after"):
        upscale_video(source, target, nearest(2), OPTIONS, resume=True)
    assert target.read_bytes() == kept


def test_after_the_first_damage_there_is_nothing_to_do(tmp_path):
    """Workers side by side can each meet damage, the later one first."""
    target = tmp_path / "out.mp4"
    job = prepare_job(BUNNY, target, OPTIONS, {}, lambda height, width: (height, width))
    done = SegmentRecord(1, frames=8, bytes=0, sha256="", header="", sizes=[], pts=[], durations=[], keys=[])
    with open_checkpoint(target, job.identity, resume=False) as checkpoint:
        assert [segment.index for segment in missing(job, checkpoint)] == list(range(7))
        checkpoint.records[1] = done
        assert [segment.index for segment in missing(job, checkpoint)] == [0, 2, 3, 4, 5, 6]
        for index in (5, 3):
            checkpoint.records[index] = dataclasses.replace(done, index=index, damage="is cut off")
        assert [segment.index for segment in missing(job, checkpoint)] == [0, 2]


@pytest.mark.unix("sends signals to another process")
def test_ctrl_c_of_the_command_says_how_to_go_on(tmp_path):
    target = tmp_path / "out.mp4"
    with popen(command_line(target), stderr=subprocess.PIPE, text=True) as child:
        wait_for_lines(child, target, 3)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert child.returncode == 130, errors
    assert f"what is finished lies in {parts_of(target)}; the same command with --resume goes on" in errors


# Between `open` and `with` an interruption leaves a file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_at_any_line_of_the_opening_no_folder_stays(tmp_path):
    """Ctrl-C is raised wherever the main thread is: at each line of ours until a segment could be written."""
    target = tmp_path / "out.mkv"

    def opening():
        with open_checkpoint(target, {}, resume=False):
            sys.settrace(None)

    lines = 0
    while interrupted_at(lines, opening):
        assert list(tmp_path.iterdir()) == []
        lines += 1
    assert lines > 50


def test_what_locks_need_is_loaded_before_there_is_a_folder(tmp_path):
    """An import that was interrupted may fail when it is tried again, so it must not be tried on the way out."""
    target = tmp_path / "out.mkv"
    program = f"""
import sys
from pathlib import Path
from esrgan_deploy.video.output.checkpoint import open_checkpoint, parts_of

target = Path({str(target)!r})

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "filelock":
            print("loaded, folder:", parts_of(globals()["target"]).exists())
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
with open_checkpoint(target, {{}}, resume=False):
    pass
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "loaded, folder: False\n", ended.stderr
    assert list(tmp_path.iterdir()) == []


def interrupted_at(line, work):
    """Raise KeyboardInterrupt at a line of this project, counted from 0; False: `work` ended before."""
    left = line

    def trace(frame, event, _):
        nonlocal left
        name = frame.f_code.co_name
        if "esrgan_deploy" not in frame.f_code.co_filename or name == "_remove_unused":
            return None  # an interruption of the tidying itself leaves what it had not come to
        if event == "line":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False
