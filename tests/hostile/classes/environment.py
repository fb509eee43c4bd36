"""Variables of the environment that are missing, senseless, or lead elsewhere."""

import os

from hostile.case import Case, Command, Output

FOLDERS = ("XDG_CACHE_HOME", "HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")
PLACES = ("", "relative", "/nonexistent/x", "/dev/null", "/proc/1/root/x", "a\x1b[2Jb", "x" * 5000, "file", "pipe", "/")
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM", "ORT_NUM_THREADS")
NUMBERS = ("", "0", "-1", "x", "1" * 30, "1e9", "1,2,3", "\x1b[2J")
LANGUAGE = {
    "LC_ALL": ["C", "POSIX", "tr_TR.UTF-8", "x" * 300, ""],
    "LANG": ["C", "ja_JP.SJIS", "\x1b[2J"],
    "PYTHONIOENCODING": ["ascii", "latin-1:strict", "cp1252"],
    "PYTHONUTF8": ["0", "1"],
    "PYTHONCOERCECLOCALE": ["0"],
    "COLUMNS": ["0", "-5", "1", "9" * 30, "x"],
    "LINES": ["0"],
    "TERM": ["dumb", "\x1b[2J", ""],
    "TZ": ["\x1b[2J", "../../etc/passwd"],
    "SOURCE_DATE_EPOCH": ["-1", "x"],
}
LIBRARIES = {
    "OPENCV_IO_MAX_IMAGE_PIXELS": ["1", "0", "x"],
    "OPENCV_IO_MAX_IMAGE_WIDTH": ["1", "x"],
    "OPENCV_LOG_LEVEL": ["VERBOSE"],
    "ORT_LOGGING_LEVEL": ["0"],
    "ONEDNN_VERBOSE": ["1"],
    "ONEDNN_MAX_CPU_ISA": ["X", "SSE41", "\x1b[2J"],
    "DNNL_MAX_CPU_ISA": ["X", "SSE41"],
    "OPENVINO_LOG_LEVEL": ["5"],
    "CUDA_VISIBLE_DEVICES": ["-1", "x", "99"],
    "SVT_LOG": ["4", "x"],
    "AV_LOG_FORCE_COLOR": ["1"],
    "RAY_ADDRESS": ["127.0.0.1:1", "auto"],
    "http_proxy": ["http://127.0.0.1:1"],
    "FFREPORT": ["file=report.log:level=56"],
    "PYTHONWARNINGS": ["always", "error::DeprecationWarning"],
    "PYTHONOPTIMIZE": ["2"],
    "PYTHONHASHSEED": ["0"],
    "MALLOC_PERTURB_": ["85"],
}


def picture(shop, env, apart=True):
    """A picture, by a network that must be found, with these variables."""
    shop.seed("nearest.onnx", "net.onnx")
    shop.seed("rgb.png", "in.png")
    words = [
        "esrgan-upscale",
        "in.png",
        "-o",
        "out.png",
        "-m",
        "net.onnx",
        "-b",
        shop.pick(["ort", "reference"]),
    ]
    if words[-1] == "reference":
        del words[4:6]
    return Case("", [Command(words, env=env, apart=apart)], [Output("out.png", "picture", like="in.png")])


def clip(shop, env, apart=True):
    """A clip with these variables."""
    shop.seed("a.mkv", "in.mkv")
    words = ["esrgan-upscale", "in.mkv", "-o", "out.mkv", "-b", "reference"]
    return Case("", [Command(words, env=env, apart=apart)], [Output("out.mkv", "clip", frames=12)])


def tuned(shop, env):
    """What looks into the cache: a clip with the default backend."""
    shop.seed("ffv1.mkv", "in.mkv")
    shop.seed("nearest.onnx", "net.onnx")
    words = ["esrgan-upscale", "in.mkv", "-o", "out.mkv", "-m", "net.onnx", "--frames", "0:2"]
    return Case("", [Command(words, env=env)], [Output("out.mkv", "clip", frames=2)], ours=("relative",))


def engines(_shop, env):
    """What lists the cache."""
    return Case("", [Command(["esrgan-engine", "--list"], env=env)], ours=("relative",))


def place(shop):
    """A value for a variable that names a folder."""
    shop.write("file", "precious")
    os.mkfifo(shop.folder / "pipe")
    value = shop.pick(PLACES)
    return str(shop.folder / value) if value in ("file", "pipe") else value


def folders(shop):
    """One folder is missing, is a file, a pipe, a device, relative."""
    name = shop.pick(FOLDERS)
    return shop.pick([picture, clip, tuned])(shop, {name: place(shop)})


def cache_folder(shop):
    """The cache is no folder."""
    return shop.pick([tuned, engines])(
        shop, {"XDG_CACHE_HOME": place(shop), "HOME": shop.pick([None, place_again(shop)])}
    )


def place_again(shop):
    """As `place`, once its files are there."""
    return shop.pick([value for value in PLACES if value not in ("file", "pipe")])


def no_home(shop):
    """None of them is set."""
    return shop.pick([tuned, engines, clip])(shop, dict.fromkeys((*FOLDERS, "USER", "LOGNAME")))


def temporary_folder(shop):
    """No folder for temporary files."""
    return shop.pick([picture, clip])(shop, {"TMPDIR": place(shop)})


def counts(shop):
    """Numbers of threads that are none."""
    env = {name: shop.pick(NUMBERS) for name in shop.some(COUNTS)}
    return shop.pick([picture, clip])(shop, env)


def language(shop):
    """Languages and encodings in which names cannot be printed."""
    env = {name: shop.pick(LANGUAGE[name]) for name in shop.some(LANGUAGE)}
    case = shop.pick([picture, clip])(shop, env)
    words = case.commands[0].words
    old = words[words.index("-o") + 1]
    new = f"out-\u00fc\u65e5\u672c{old[old.rindex('.') :]}"
    words[words.index("-o") + 1] = case.outputs[0].path = new
    return case


def libraries(shop):
    """Switches of the libraries below."""
    env = {name: shop.pick(LIBRARIES[name]) for name in shop.some(LIBRARIES)}
    case = shop.pick([picture, clip])(shop, env)
    case.ours = ("report.log",)
    return case


def mutated(shop):
    """Several at once."""
    known = {**LANGUAGE, **LIBRARIES, **dict.fromkeys(COUNTS, NUMBERS)}
    env = {name: shop.pick(known[name]) for name in shop.some(known, 4)}
    if shop.rng.random() < 0.5:
        env[shop.pick(FOLDERS)] = place(shop)
    case = shop.pick([picture, clip])(shop, env, apart=shop.rng.random() < 0.5)
    case.ours = ("report.log", "relative")
    return case


IDEAS = [folders, cache_folder, no_home, temporary_folder, counts, language, libraries]
