"""No module outside `esrgan_deploy/system/` knows an operating system."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("esrgan_deploy", "export/esrgan_export", "train/esrgan_train", "benchmarks/esrgan_bench")
MODULES = {
    "fcntl",
    "resource",
    "pwd",
    "grp",
    "msvcrt",
    "winreg",
    "_winapi",
    "termios",
    "psutil",
    "filelock",
    "platformdirs",
}
CALLS = {
    "os": {
        *("sched_getaffinity", "sched_setaffinity", "getloadavg", "getuid", "geteuid", "fork", "sysconf", "uname"),
        *("kill", "killpg", "setsid", "nice", "O_DIRECTORY", "mkfifo", "name"),
    },
    "sys": {"platform", "getwindowsversion"},
}
FILES = ("/proc", "/sys/", "/dev/", ".so.1", ".dylib", "XDG_")


def modules():
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return [path for path in found if "esrgan_deploy/system/" not in path.as_posix()]


def faults(source):
    """What is written in `source` that only `system` may know; docstrings and comments may speak of it."""
    tree = ast.parse(source)
    texts = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = {name.name for name in node.names}
            if (node.module or "").partition(".")[0] in MODULES or names & CALLS.get(node.module or "", set()):
                yield f"{node.module}: {names}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in CALLS.get(node.value.id, ()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "resolve":
            yield "resolve() of a link to itself raises before Python 3.13; take system.paths.real_path"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield from (repr(node.value) for name in FILES if name in node.value)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_outside_system_knows_an_operating_system(path):
    assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        *("import fcntl", "import resource as r", "from pwd import getpwuid", "def f():\n    import msvcrt"),
        *("os.sched_getaffinity(0)", "from os import getloadavg", "if sys.platform == 'win32': pass"),
        *("Path('/proc/self')", "f'/proc/{pid}/status'", "CDLL('libcuda.so.1')", "os.environ['XDG_CACHE_HOME']"),
        "path.parent.resolve()",
    ],
)
def test_what_is_looked_for_is_found(source):
    assert list(faults(source))


def test_text_about_systems_is_no_fault():
    assert list(faults('"""Reads /proc."""\nx = 1\n"""From /sys/."""\n')) == []
