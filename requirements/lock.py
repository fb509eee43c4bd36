"""`make lock`: pin every package that CI installs, with the hashes of all its files. Needs uv and a connection.

ci.lock      what lints and tests, on every system and Python that is supported; all but what is in torch.lock
torch.lock   PyTorch as PyPI has it, on Linux with the libraries of CUDA
torch-cpu.lock   PyTorch's build without CUDA, which PyPI does not have: written by hand, tried first
runtime.lock     the runtime's tests alone, for `make test-runtime-3.10`
cpu.lock         the runtime with its extra `cpu` and nothing else: what `make release` describes
release.lock     the tools of `make lock`, `make audit` and `make release`
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMPILE = [
    *("-m", "uv", "pip", "compile", "--quiet", "--no-config", "--upgrade"),
    *("--universal", "--python-version", "3.10", "--generate-hashes", "--no-annotate", "--no-header"),
]
TESTED = (
    "pyproject.toml",
    "--group",
    "dev",
    "--extra",
    "cpu",
    "--extra",
    "train",
    "--extra",
    "ray",
    "--extra",
    "bench",
)
WITH_TORCH = re.compile(r"torch|triton|cuda-toolkit|nvidia-(?!ml-py$).*")
"""Names of packages that PyTorch alone needs, and its build without CUDA does not."""


def main() -> None:
    """Write the locks anew."""
    torch, rest = "", ""
    for entry in re.split(r"^(?=\w)", compiled(*TESTED), flags=re.MULTILINE):
        name = entry.partition("==")[0]
        if WITH_TORCH.fullmatch(name):
            torch += entry
        else:
            rest += entry
    write("ci.lock", rest)
    write("torch.lock", torch)
    same = ("--constraints", "requirements/ci.lock")
    write(
        "runtime.lock",
        compiled("pyproject.toml", "--group", "runtime-test", "--group", "build", "--extra", "cpu", *same),
    )
    write("cpu.lock", compiled("pyproject.toml", "--extra=cpu", *same))
    write("release.lock", compiled("--group", "release", *same))


def compiled(*arguments: str) -> str:
    """What uv makes of the requirements that `arguments` name."""
    command = [sys.executable, *COMPILE, *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def write(name: str, text: str) -> None:
    """Write one of the files beside this one."""
    (Path(__file__).parent / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
