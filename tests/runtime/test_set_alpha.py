"""Sessions that are turned while they work."""

import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from esrgan_deploy import ModelError, OptionError, Upscaler, open_session
from esrgan_deploy.alpha import endpoints_path, write_endpoints
from esrgan_deploy.cli.upscale import main
from gain_pair import GREY, expected, pair_endpoints, write_model

BACKENDS = ("openvino", "ort")


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "gain.onnx", 0.8)


def open_fp32(path, backend, **options):
    return open_session(path, backend, precision="fp32", **options)


def assert_shows(frames, alpha, source=GREY):
    """Half-way cases may be rounded either way in float32; neighbouring alphas of these tests differ by far more."""
    difference = np.abs(frames.astype(int) - expected(source, alpha).astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.2


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_submitted_afterwards_is_of_the_new_alpha(model, backend):
    deep = GREY.astype(np.uint16) * 257
    with open_fp32(model, backend) as session:
        assert_shows(session.run(GREY), 0.8)
        for alpha in (0.25, 0, 1, 0.8):
            session.set_alpha(alpha)
            assert_shows(session.run(GREY), alpha)
            # At the first alpha the 16-bit frames' session is made after the change, later it is replaced by it.
            assert_shows(session.run(deep), alpha, deep)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_session_says_what_it_became(model, backend):
    with open_fp32(model, backend) as session:
        plain = session.model_sha256
        session.set_alpha(0.25)
        assert (session.info.alpha, session.model_sha256) == (0.25, f"{plain}@0.25")
        session.set_alpha(0.5)
        assert (session.info.alpha, session.model_sha256) == (0.5, f"{plain}@0.5")
        session.set_alpha(0.8)
        assert (session.info.alpha, session.model_sha256) == (0.8, plain)


@pytest.mark.parametrize(("backend", "streams"), [("openvino", 1), ("openvino", 2), ("ort", 1)])
def test_what_was_submitted_before_keeps_its_alpha(model, backend, streams):
    frames = np.tile(GREY, (1, 12, 12, 1))
    with open_fp32(model, backend, streams=streams) as session:
        before = [session.submit(frames) for _ in range(12)]
        session.set_alpha(0)
        after = [session.submit(frames) for _ in range(3)]
        assert all(future.done() for future in before)
        for alpha, futures in ((0.8, before), (0, after)):
            for future in futures:
                assert_shows(future.result(), alpha, frames)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["no share", "missing", "another pair", "damaged", "model gone"])
def test_a_failure_leaves_everything_as_it_was(model, backend, case):
    with open_fp32(model, backend) as session:
        session.set_alpha(0.25)
        before = (session.info, session.model_sha256)
        if case == "missing":
            endpoints_path(model).unlink()
        elif case == "another pair":
            write_endpoints(endpoints_path(model), pair_endpoints(gan_sha256="c" * 64))
        elif case == "damaged":
            endpoints_path(model).write_bytes(endpoints_path(model).read_bytes()[:-1])
        elif case == "model gone":
            model.unlink()
        with pytest.raises((OptionError, ModelError)):
            session.set_alpha(2 if case == "no share" else 1)
        assert (session.info, session.model_sha256) == before
        assert_shows(session.run(GREY), 0.25)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tile", [0, 8])
def test_a_still_picture_changes_with_alpha(model, backend, tile):
    """Tiles that stand still keep their result, but not that of another alpha."""
    with Upscaler(open_fp32(model, backend), tile=tile, overlap=2) as upscaler:
        frames = upscaler.map(GREY[0] for _ in range(30))
        assert_shows(next(frames)[None], 0.8)
        upscaler.session.set_alpha(0)
        shown = list(frames)  # the first of them were taken in before the change
        assert_shows(shown[0][None], 0.8)
        assert_shows(shown[-1][None], 0)
        assert len({id(frame) for frame in shown}) == 2, "each alpha is computed once"
        assert upscaler.identity()["model_sha256"].endswith("@0.0")


def test_compiled_models_of_another_alpha_are_not_taken_from_the_cache(model, tmp_path):
    with open_fp32(model, "openvino", cache=tmp_path / "cache") as session:
        for alpha in (0.25, 1, 0.25):
            session.set_alpha(alpha)
            assert_shows(session.run(GREY), alpha)


@pytest.mark.parametrize(("backend", "streams"), [("openvino", 2), ("ort", 1)])
def test_several_threads_may_turn_at_once(model, backend, streams):
    """Each result is of one alpha throughout, and the last state is consistent."""
    alphas = (0, 0.25, 0.5, 1)
    stop = threading.Event()
    with open_fp32(model, backend, streams=streams) as session, ThreadPoolExecutor(5) as threads:

        def watch():
            seen = []
            while not stop.is_set():
                seen.append(session.run(GREY))
            return seen

        watching = threads.submit(watch)
        for _ in range(3):
            list(threads.map(session.set_alpha, alphas))
        stop.set()
        for frames in watching.result(timeout=60):
            assert int(frames.max()) in [
                int(expected(GREY, alpha).max()) + d for alpha in (0.8, *alphas) for d in (0, 1)
            ]
        assert_shows(session.run(GREY), session.info.alpha)
        assert session.model_sha256.endswith(f"@{session.info.alpha!r}")


# --- the command ---


def upscale(capsys, *arguments):
    """Exit code, and what was said to be wrong."""
    code = main([str(argument) for argument in arguments])
    return code, [line for line in capsys.readouterr().err.splitlines() if line.startswith("esrgan-upscale: ")]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_command_takes_alpha(model, tmp_path, capsys, backend):
    cv2.imwrite(str(tmp_path / "in.png"), GREY[0])
    common = ("-m", model, "-b", backend, "--precision", "fp32")
    code, said = upscale(capsys, tmp_path / "in.png", "-o", tmp_path / "out.png", "--alpha", "0.25", *common)
    assert (code, said) == (0, [])
    assert_shows(cv2.imread(str(tmp_path / "out.png"))[None], 0.25)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--alpha", "1.5"), "not in [0, 1]"),
        (("--alpha", "nan"), "not in [0, 1]"),
        (("--alpha", "0.5", "-b", "reference"), "cannot set alpha 0.5"),
        (("--alpha", "0.5", "--ray"), "export it with --alpha 0.5"),
    ],
)
def test_the_command_refuses_in_one_line(model, tmp_path, capsys, more, words):
    (tmp_path / "in.mp4").touch()
    code, said = upscale(capsys, tmp_path / "in.mp4", "-o", tmp_path / "out.mp4", "-m", model, *more)
    assert (code, len(said)) == (2, 1)
    assert words in said[0]


def test_a_session_without_the_dial_says_so():
    with open_session(None, "reference") as session, pytest.raises(OptionError, match=r"cannot set alpha 0\.5"):
        session.set_alpha(0.5)
