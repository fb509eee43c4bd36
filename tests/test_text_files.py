"""Text is UTF-8 on every system. What does not say so is read and written in the code page of a Windows machine."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ["esrgan_deploy", "export/esrgan_export", "train/esrgan_train", "benchmarks/esrgan_bench"]
MODES = frozenset("rwax+t")


def opens_text(call):
    """Whether a call reads or writes text in an encoding that it does not name.

    `x.open()` without a mode is left out: most things that can be opened are no files.
    """
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    words = [one.value for one in (*call.args, *(k.value for k in call.keywords)) if isinstance(one, ast.Constant)]
    modes = [word for word in words if isinstance(word, str) and word and MODES.issuperset(word.replace("b", ""))]
    match call.func:
        case ast.Attribute(attr="read_text" | "write_text"):
            return True
        case ast.Attribute(value=ast.Name(id="av")):  # PyAV's modes are those of files, and its files are not text
            return False
        case ast.Attribute(attr="open" | "fdopen" | "TemporaryFile" | "NamedTemporaryFile"):
            return bool(modes) and "b" not in modes[0]
        case ast.Name(id="open"):
            return "b" not in "".join(modes)
        case _:
            return False


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("path.read_text()", True),
        ("path.read_text(encoding='utf-8')", False),
        ("path.write_text(text)", True),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("path.open('a')", True),
        ("path.open(mode='wb')", False),
        ("av.open(path, 'w')", False),
    ],
)
def test_the_check_tells_text_from_bytes(code, expected):
    assert opens_text(ast.parse(code, mode="eval").body) == expected


@pytest.mark.parametrize("package", PACKAGES)
def test_every_text_file_names_its_encoding(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and opens_text(node)
    ]
    assert found == []
