"""The first table of docs/tensorrt_versions.md says what the specifications say."""

import re

import pytest

from real_bindings import ROOT, specification

PAGE = (ROOT / "docs" / "tensorrt_versions.md").read_text()
HEAD = re.search(r"^\| Feature \| Asked for by the name \| (.*) \|$", PAGE, re.MULTILINE)[1]
VERSIONS = [column.replace("RTX ", "rtx_") for column in HEAD.split(" | ")]
ROWS = re.findall(r"^\| [^|]* \| `([^`]*)` \| ((?:(?:yes|-) ?\|? ?)+) \|$", PAGE, re.MULTILINE)


def has(name, version):
    """Whether a version has "Class", "Class.member", "Enum.MEMBER", or a constructor "Class(parameter, ...)"."""
    spec = specification(version)
    owner, _, member = name.partition(".")
    if "(" in name:
        owner, parameters = re.fullmatch(r"(\w+)\((.*)\)", name).groups()
        return parameters.split(", ") in spec["classes"][owner]["__init__"]
    if not member:
        return owner in spec["module"]
    return member in spec["enums"].get(owner, spec["classes"].get(owner, ()))


def test_all_versions_are_in_the_table():
    assert VERSIONS == ["8.5.3.1", "10.13.3.9", "10.16.1.11", "11.4.0.106", "rtx_1.7.1.116"]
    assert len(ROWS) == PAGE.split("## How it was checked")[0].count("\n| ") - 1


@pytest.mark.parametrize(("name", "cells"), ROWS, ids=[name for name, _ in ROWS])
def test_row(name, cells):
    found = ["yes" if has(name, version) else "-" for version in VERSIONS]
    assert cells.split(" | ") == found
    assert "yes" in found  # or the name is misspelt
