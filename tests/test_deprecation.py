"""Deprecated names warn whoever uses them, and are gone in the release that was announced."""

import ast
import warnings
from pathlib import Path

import pytest

import esrgan_deploy
from esrgan_deploy.deprecation import deprecated, is_reached, warn_deprecated

ROOT = Path(__file__).parent.parent
FOLDERS = ("esrgan_deploy", "export/esrgan_export", "train/esrgan_train", "benchmarks/esrgan_bench")


@deprecated(remove_in="99.0", use_instead="plus")
def add(a, b=1):
    """Add."""
    return a + b


def announced(source):
    """(line, release) of every `remove_in` that is given in a source text."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        (call.lineno, keyword.value.value)
        for call in calls
        for keyword in call.keywords
        if keyword.arg == "remove_in" and isinstance(keyword.value, ast.Constant)
    ]


def overdue(source, version):
    return [line for line, release in announced(source) if is_reached(release, version)]


def test_nothing_has_outlived_its_release():
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        lines = overdue(path.read_text("utf-8"), esrgan_deploy.__version__)
        assert not lines, f"{path}:{lines}: the release in which this is removed is here; remove it"


def test_the_test_above_can_fail():
    """Decorators and calls are found, and compared as numbers."""
    source = '@deprecated(remove_in="0.9", use_instead="b")\ndef a(): ...\nwarn_deprecated("c", remove_in="0.10")\n'
    assert [overdue(source, version) for version in ("0.8.9", "0.9", "0.10")] == [[], [1], [1, 3]]


@pytest.mark.parametrize(
    ("release", "version", "reached"),
    [
        ("0.3", "0.2.9", False),
        ("0.3", "0.3.0", True),
        ("0.3.0", "0.3", True),
        ("0.3", "0.3.0rc1", True),
        ("0.3", "0.3.dev4", True),
        ("0.3", "0.2.0+cuda13", False),
        ("0.10", "0.9", False),
        ("1", "0.99", False),
    ],
)
def test_releases_are_compared_as_numbers(release, version, reached):
    assert is_reached(release, version) == reached


def test_a_deprecated_function_still_works_and_names_its_heir():
    with pytest.warns(DeprecationWarning, match=r"test_deprecation\.add is deprecated .* in 99\.0; use plus") as caught:
        assert add(2, b=3) == 5
    assert caught[0].filename == __file__
    assert add.__doc__ == "Add."


def test_it_warns_once_for_each_place():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            add(1)
            add(2)
    assert len({warning.lineno for warning in caught}) == len(caught) == 2


def test_names_that_are_no_functions_blame_their_user():
    def attribute():
        warn_deprecated("module.name", remove_in="99.0", use_instead="other")

    with pytest.warns(DeprecationWarning, match=r"module\.name") as caught:
        attribute()
    assert caught[0].filename == __file__
