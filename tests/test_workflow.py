"""The workflow for other systems runs what the Makefile runs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def job():
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["jobs"]["test"]


def made(*targets):
    """The lines that make would run for `targets`."""
    # Not as a part of the make that runs this test, which would add lines of its own.
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-n", *targets]
    return subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_windows_runs_the_lines_of_the_makefile(job):
    (step,) = (step for step in job["steps"] if step.get("name") == "Lint and test (Windows)")
    lines = made("-o", ".venv/dev.done", "lint", "test-rest", "test-engines", "test-train", "test-hostile")
    assert step["run"].splitlines() == lines.replace(".venv/bin/", "").splitlines()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_windows_installs_what_the_makefile_installs(job):
    (step,) = (step for step in job["steps"] if step.get("name") == "Install (Windows)")
    lines = made("-o", ".venv/bin/python", "-W", "pyproject.toml", ".venv/dev.done").replace(".venv/bin/", "")
    assert step["run"].splitlines() == [line for line in lines.splitlines() if not line.startswith("touch ")]


def test_every_python_that_the_package_names_is_tested_on_three_systems(job):
    matrix = job["strategy"]["matrix"]
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert named
    assert set(named) <= set(matrix["python"])
    assert matrix["system"] == ["ubuntu-latest", "windows-latest", "macos-latest"]
