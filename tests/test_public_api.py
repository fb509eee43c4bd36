"""What `__all__` names is documented, what the pages import is public, and errors.py draws its own tree."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import esrgan_deploy
from esrgan_deploy import errors

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
MODULES = ("esrgan_deploy", "esrgan_deploy.images", "esrgan_deploy.video")
ALSO_PUBLIC = {
    "esrgan_deploy.models": {"BUNDLED", "MODELS"},
    "esrgan_deploy.model": {"load_onnx"},
    "esrgan_deploy.backends.trt": {"TensorRTSession"},
}
"""Names of modules without an `__all__` that pages may use."""


def public(module):
    return set(importlib.import_module(module).__all__)


@pytest.mark.parametrize("module", MODULES)
def test_public_names_exist_and_say_what_they_are(module):
    found = importlib.import_module(module)
    for name in found.__all__:
        value = getattr(found, name)
        assert not callable(value) or inspect.getdoc(value), name


def test_the_page_about_embedding_names_what_is_public():
    """Exactly: neither a name that is not there, nor one that is left out."""
    text = (ROOT / "docs/embedding.md").read_text("utf-8").split("## Names\n")[1].split("\n## ")[0]
    for module in ("esrgan_deploy", "esrgan_deploy.images"):
        (table,) = re.findall(rf"^\| in `{module}` \|.*?\n\n", text, re.MULTILINE | re.DOTALL)
        first_cells = [row.split("|")[1] for row in table.splitlines()[2:] if row]
        assert {name for cell in first_cells for name in re.findall(r"`(\w+)[`(]", cell)} == public(module)


def test_what_the_pages_import_is_public():
    used = set()
    for page in PAGES:
        for program in re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            for node in ast.walk(ast.parse(program)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("esrgan_deploy"):
                    allowed = public(node.module) if node.module in MODULES else ALSO_PUBLIC.get(node.module, set())
                    names = {alias.name for alias in node.names}
                    assert names <= allowed, f"{page.name}: {node.module} has no public {names - allowed}"
                    used |= names
    assert {"Upscaler", "open_session", "upscale_video"} <= used


def test_the_tree_of_errors_is_drawn_as_it_is():
    drawn, above = {}, {}
    for marks, name, code in re.findall(r"^    ([|` -]*)(\w+Error) +(exit code|\d+)", errors.__doc__, re.MULTILINE):
        above[len(marks)] = name
        parent = max((depth for depth in above if depth < len(marks)), default=None)
        drawn[name] = (above.get(parent, "Exception"), code)
    assert drawn.pop("EsrganError") == ("Exception", "exit code")
    real = {
        name: (value.__base__.__name__, str(value.exit_code))
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.EsrganError) and value is not errors.EsrganError
    }
    assert drawn == real
    assert {*real, "EsrganError"} <= set(esrgan_deploy.__all__)


def test_only_commands_print():
    """Elsewhere a program that embeds the runtime decides what is shown, by `logging`."""
    for path in (ROOT / "esrgan_deploy").rglob("*.py"):
        if "cli" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            assert not (isinstance(node, ast.Name) and node.id == "print"), where
            streams = isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")
            assert not (streams and isinstance(node.value, ast.Name) and node.value.id == "sys"), where
