"""A run touches nothing but its own files, and believes nothing that it did not write."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clips import nearest
from esrgan_deploy.cli.upscale import main
from esrgan_deploy.errors import OutputError
from esrgan_deploy.video import VideoOptions, parts_of, upscale_video
from esrgan_deploy.video.output.journal import sealed
from test_video_resume import BUNNY, OPTIONS, interrupted

HERE = Path(__file__).parent


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out.mp4"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "out.mp4"
    upscale_video(BUNNY, path, nearest(2), OPTIONS)
    return path.read_bytes()


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- folders that are not ours ----------------------------------------------------------------------------------------


def make_own(folder, victim):
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")


def make_link(folder, victim):
    folder.symlink_to(victim)


def make_dangling_link(folder, victim):
    folder.symlink_to(victim / "none")


def make_open_to_all(folder, victim):
    folder.mkdir()
    folder.chmod(0o777)


def make_one_with_our_names(folder, victim):
    folder.mkdir()
    (folder / "000000.packets").write_text("mine")


@pytest.mark.unix("makes links and modes")
@pytest.mark.parametrize("beside", [".parts", ".preview"])
@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_own, r"was not made by this program, it holds notes\.txt; name another output, or move it away"),
        (make_link, "is a link, where a folder of this program belongs"),
        (make_dangling_link, "is a link"),
        (make_open_to_all, "can be written by other users, so what is in it cannot be trusted"),
        (make_one_with_our_names, "was not made by this program, it holds 000000.packets"),
    ],
)
def test_a_folder_that_is_not_ours_is_refused_and_left_alone(tmp_path, target, beside, resume, make, words):
    victim = tmp_path / "victim"
    victim.mkdir()
    for name in ("lock", "journal.jsonl", "000000.packets", "frame_000000.png"):
        (victim / name).write_text("precious")
    folder = target.with_name(target.name + beside)
    make(folder, victim)
    before = content(tmp_path)
    with pytest.raises(OutputError, match=rf"out\.mp4{beside}: {words}"):
        upscale_video(BUNNY, target, nearest(2), VideoOptions(preview=10), resume=resume)
    assert content(tmp_path) == before
    folder.rename(tmp_path / "away")
    upscale_video(BUNNY, target, nearest(2), VideoOptions(preview=10), resume=resume)


@pytest.mark.unix("makes links")
@pytest.mark.parametrize("name", ["journal.jsonl", "000000.packets", "lock", ".esrgan-deploy"])
def test_a_link_in_our_folder_is_not_followed(tmp_path, target, name):
    interrupted(BUNNY, target, 30)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (parts_of(target) / name).unlink(missing_ok=True)
    (parts_of(target) / name).symlink_to(victim)
    with pytest.raises(OutputError, match=r"out\.mp4\.parts"):
        upscale_video(BUNNY, target, nearest(2), OPTIONS, resume=True)
    assert victim.read_text() == "precious"


def test_what_others_put_into_our_folder_stays(target, whole, caplog):
    interrupted(BUNNY, target, 30)
    (parts_of(target) / "notes.txt").write_text("mine")
    (parts_of(target) / "7.packets").write_text("mine")
    upscale_video(BUNNY, target, nearest(2), OPTIONS, resume=True)
    assert target.read_bytes() == whole
    assert {path.name for path in parts_of(target).iterdir()} == {"notes.txt", "7.packets"}
    assert "out.mp4.parts: stays, since it holds 7.packets, which is not of this program" in caplog.text


@pytest.mark.parametrize("left", [(), ("lock",), (".esrgan-deploy", "lock")])
def test_what_a_run_leaves_that_is_killed_at_its_very_start_is_no_obstacle(target, whole, left):
    parts_of(target).mkdir(mode=0o700)
    for name in left:
        (parts_of(target) / name).touch()
    upscale_video(BUNNY, target, nearest(2), OPTIONS)
    assert target.read_bytes() == whole
    assert not parts_of(target).exists()


def test_the_folder_is_private_and_says_whose_it_is(target):
    interrupted(BUNNY, target, 30)
    marker = json.loads((parts_of(target) / ".esrgan-deploy").read_bytes())
    assert (marker["made_by"], marker["folder"]) == ("esrgan-deploy", "out.mp4.parts")
    if os.name == "posix":
        assert parts_of(target).stat().st_mode & 0o777 == 0o700


def test_a_run_of_an_earlier_version_is_named(target):
    parts_of(target).mkdir()
    (parts_of(target) / "journal.jsonl").write_text('{"format":1,"input":"ab"}\n{"index":0}\n')
    (parts_of(target) / "000000.packets").write_bytes(b"x")
    before = content(parts_of(target))
    with pytest.raises(OutputError, match="segments of an earlier version of esrgan-deploy; finish the clip with that"):
        upscale_video(BUNNY, target, nearest(2), OPTIONS, resume=True)
    assert content(parts_of(target)) == before
    shutil.rmtree(parts_of(target))
    upscale_video(BUNNY, target, nearest(2), OPTIONS, resume=True)


@pytest.mark.unix("becomes another user")
def test_two_users_on_a_shared_folder(tmp_path, target):
    """What another user prepared in a folder that both can write is neither used nor removed."""
    if os.geteuid() != 0:
        pytest.skip("only root may become another user")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    for folder in (shared, *list(shared.parents)[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import os, sys; os.setgid(65534); os.setuid(65534); folder = sys.argv[1]; os.mkdir(folder, 0o755)\n"
        "for name in ('.esrgan-deploy', 'journal.jsonl'):\n"
        """    open(os.path.join(folder, name), 'w').write('{"made_by": "esrgan-deploy"}')\n"""
    )
    for beside in (".parts", ".preview"):
        target = shared / f"out{beside}.mp4"
        folder = target.with_name(target.name + beside)
        subprocess.run([sys.executable, "-c", code, folder], check=True)
        before = content(folder)
        with pytest.raises(OutputError, match=rf"\{beside}: belongs to another user \(nobody\), so what is in it"):
            upscale_video(BUNNY, target, nearest(2), VideoOptions(preview=10), resume=True)
        assert content(folder) == before


# --- the journal ------------------------------------------------------------------------------------------------------


def edit(target, line, change):
    """Change one line of the journal as somebody would with an editor."""
    path = parts_of(target) / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = change(lines[line])
    path.write_bytes(b"".join(lines))


def shifted(name):
    def change(line):
        values = json.loads(line)
        values[name] = [value + 1 for value in values[name]]
        return json.dumps(values, separators=(",", ":")).encode() + b"\n"

    return change


@pytest.mark.parametrize("line", [1, 2])
@pytest.mark.parametrize("name", ["pts", "sizes", "durations", "keys"])
def test_an_edited_line_is_computed_again_and_that_is_said(target, whole, caplog, name, line):
    finished = interrupted(BUNNY, target, 34)
    assert finished >= 3
    edit(target, line, shifted(name))
    summary = upscale_video(BUNNY, target, nearest(2), OPTIONS, resume=True)
    assert target.read_bytes() == whole
    assert summary.computed == 50 - (line - 1) * 8
    assert f"journal.jsonl: line {line + 1} is not what was written; the segments from there on are" in caplog.text


def test_lines_in_another_order_are_computed_again(target, whole, caplog):
    interrupted(BUNNY, target, 34)
    path = parts_of(target) / "journal.jsonl"
    first, *records = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, *reversed(records)]))
    upscale_video(BUNNY, target, nearest(2), OPTIONS, resume=True)
    assert target.read_bytes() == whole
    assert "line 2 is not what was written" in caplog.text


def test_an_edited_first_line_is_refused_and_nothing_is_lost(target):
    interrupted(BUNNY, target, 34)
    edit(target, 0, lambda line: line.replace(b'"crf":', b'"crf": '))
    before = content(parts_of(target))
    with pytest.raises(OutputError, match=r"journal\.jsonl: line 1 is not what was written, so that none of the"):
        upscale_video(BUNNY, target, nearest(2), OPTIONS, resume=True)
    assert content(parts_of(target)) == before


@pytest.mark.parametrize(
    "change",
    [
        {"pts": [2**70] * 8},
        {"sizes": [1] * 8},
        {"sizes": "12345678"},
        {"keys": [8]},
        {"keys": [True]},
        {"frames": 9},
        {"frames": 8.0},
        {"index": -1},
        {"index": 10**30},
        {"sha256": 5},
        {"header": "xyz"},
        {"damage": ["x"]},
        {"reused": 10**400},
        {"more": 1},
        {"bytes": None},
    ],
    ids=str,
)
def test_a_record_that_nobody_writes_is_refused_in_one_line(target, capsys, change):
    """Its digest is right: somebody computed it anew."""
    interrupted(BUNNY, target, 34)
    path = parts_of(target) / "journal.jsonl"
    first, record = path.read_bytes().splitlines()[:2]
    line, chain = sealed({name: value for name, value in json.loads(first).items() if name != "chain"}, "")
    values = {name: value for name, value in json.loads(record).items() if name != "chain"}
    path.write_bytes(line + sealed({**values, **change}, chain)[0])
    with pytest.raises(OutputError, match=r"journal\.jsonl: line 2 was not written by this program \(.*\); delete"):
        upscale_video(BUNNY, target, nearest(2), OPTIONS, resume=True)


@pytest.mark.parametrize("place", [0, 1])
def test_json_without_a_bottom_is_refused(target, place):
    interrupted(BUNNY, target, 34)
    path = parts_of(target) / "journal.jsonl"
    deep = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    import hashlib

    chain, data = "", b""
    for text in (deep, deep) if place == 0 else (b'{"format":2}', deep):
        chain = hashlib.sha256(chain.encode() + text).hexdigest()
        data += text[:-1] + f',"chain":"{chain}"}}\n'.encode()
    path.write_bytes(data)
    assert main([str(BUNNY), "-o", str(target), "-b", "reference", "--resume"]) == 2


# --- names and disks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "beside"), [(250, ".parts"), (248, ".preview")])
def test_a_name_without_room_for_what_lies_beside_it_is_refused_before_the_first_frame(tmp_path, length, beside):
    target = tmp_path / ("x" * (length - 4) + ".mp4")
    with pytest.raises(OutputError, match=rf"leaves no room for {beside} behind it; shorten it"):
        upscale_video(BUNNY, target, nearest(2), VideoOptions(preview=1), progress=lambda *_: pytest.fail("a frame"))
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_works(tmp_path):
    target = tmp_path / ("x" * 245 + ".mp4")
    upscale_video(BUNNY, target, nearest(2))
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("tiny_disk", ["1500k"], indirect=True)
def test_a_disk_that_is_full_at_the_end_costs_nothing(tmp_path, tiny_disk, whole, elsewhere):
    """The segments fit, and the file made of them does not: both remedies of the message are tried."""
    target = tiny_disk / "out.mp4"
    with pytest.raises(
        OutputError, match=r"out\.mp4: cannot be written: No space left.*; make room, then --resume"
    ) as e:
        upscale_video(BUNNY, target, nearest(2), OPTIONS)
    assert f"or move {parts_of(target)} to another disk as NAME.parts, then -o NAME --resume finishes" in str(e.value)
    assert not target.exists()
    if elsewhere:
        target = tmp_path / "another.mp4"
        shutil.move(parts_of(tiny_disk / "out.mp4"), parts_of(target))
    else:
        subprocess.run(["mount", "-o", "remount,size=4m", tiny_disk], check=True)
    summary = upscale_video(BUNNY, target, nearest(2), OPTIONS, resume=True)
    assert target.read_bytes() == whole
    assert summary.computed == 0
    assert not parts_of(target).exists()


@pytest.mark.parametrize("tiny_disk", ["4m"], indirect=True)
def test_a_disk_that_is_full_at_any_moment_costs_no_more_than_a_segment(tiny_disk, whole):
    """Twenty sizes of the disk, from none to nearly enough: copy, encode, assemble and journal all meet the end of it.

    Each run goes on where the one before had to stop.
    """
    target, ballast = tiny_disk / "out.mp4", tiny_disk / "ballast"
    most, faults = 2 * len(whole) + 100_000, []
    for step in range(20):
        room = most * step // 20
        ballast.unlink(missing_ok=True)
        used = sum(path.stat().st_blocks * 512 for path in tiny_disk.rglob("*"))
        ballast.write_bytes(bytes(max(0, shutil.disk_usage(tiny_disk).total - max(room, used))))
        kept = content(parts_of(target)) if parts_of(target).exists() else {}
        try:
            upscale_video(BUNNY, target, nearest(2), OPTIONS, resume=True)
            break
        except OutputError as error:
            faults.append(str(error))
        after = content(parts_of(target)) if parts_of(target).exists() else {}
        assert {path for path in kept if path.suffix == ".packets"} <= after.keys(), "what was finished stays"
    assert target.read_bytes() == whole
    assert len(faults) >= 10
    assert all("No space left on device; " in fault for fault in faults)
