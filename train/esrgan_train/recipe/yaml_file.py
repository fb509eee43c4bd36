"""Read and write the YAML of recipes, and apply `--set a.b=c`. Unlike in plain PyYAML, 1e-4 is a number."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Any

import yaml

from esrgan_deploy.errors import OptionError
from esrgan_train.recipe.errors import shown

_CHARACTERS = 256 * 1024
"""The most that a recipe may have; the longest of this package has 4 thousand."""
_SHOWN = 200
"""Characters of a setting in a message."""
_LEVELS, _THINGS = 16, 20_000
"""The most levels of a recipe, and the most keys and values when what an alias (*x) stands for is written out."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice. PyYAML takes the last one, so that a second `losses` would hide the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes quotation marks around words that `_Loader` would read as numbers."""


# PyYAML follows YAML 1.1, in which 1.0e-4 is a number but 1e-4 is a word.
_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def read_yaml(text: str, label: str) -> Any:  # noqa: ANN401 - whatever it holds
    """The content of `text`; error messages call it `label`.

    Raises:
        OptionError: `text` is not YAML, or a key occurs twice.
    """
    if len(text) > _CHARACTERS:
        raise OptionError(f"{label}: has {len(text)} characters, and a recipe at most {_CHARACTERS}; shorten it")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise OptionError(f"{label}: is no YAML{where}: {error.problem}; correct it") from error
    except RecursionError as error:
        raise OptionError(f"{label}: has lists or sections in more than {_LEVELS} levels; write it flatter") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:  # a date in the 13th month, a list as a key
        what = " ".join(str(error).partition(";")[0].split())
        raise OptionError(f"{label}: is no YAML: {what}; correct it") from error


def _check_size(root: yaml.Node) -> None:
    """Refuse a few lines of aliases that stand for billions of values, or for themselves."""
    waiting: list[tuple[yaml.Node, int]] = [(root, 1)]
    things = 0
    while waiting:
        node, level = waiting.pop()
        things += 1
        if level > _LEVELS or things > _THINGS:
            what = f"more than {_LEVELS} levels" if level > _LEVELS else f"more than {_THINGS} keys and values"
            raise yaml.MarkedYAMLError(problem=f"it has {what}, which no recipe has", problem_mark=node.start_mark)
        waiting += [(inner, level + 1) for inner in _inside(node)]


def _inside(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def write_yaml(content: dict[str, Any]) -> str:
    """YAML that `read_yaml` reads back as `content`."""
    for unicode in (True, False):
        text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=unicode, width=120)
        if not set(text) & set("\x85\u2028\u2029"):  # YAML reads these as line breaks, and PyYAML writes them unescaped
            break
    return text


def apply_setting(setting: str, content: dict[str, Any]) -> None:
    """Change `content` as "a.b=c" says. c is YAML; the items of a list are numbered from 0.

    Raises:
        OptionError: `setting` is not of this form, or there is no such place.
    """
    path, equals, text = setting.partition("=")
    label = f"--set {setting if len(setting) <= _SHOWN else setting[:_SHOWN] + ' ...'}"
    if not equals or not path:
        raise OptionError(f"{label}: is not KEY=VALUE, for instance --set data.patch=128")
    value = read_yaml(text, label)
    *parents, last = path.split(".")
    if len(parents) >= _LEVELS:
        raise OptionError(f"{label}: the key has more than {_LEVELS} levels, and no recipe has such a place")
    place: Any = content
    for key in parents:
        inner = _get(place, key, label)
        if inner is None and isinstance(place, dict):
            inner = place[key] = {}
        place = inner
    _get(place, last, label)
    place[int(last) if isinstance(place, list) else last] = value


def _get(place: Any, key: str, label: str) -> Any:  # noqa: ANN401 - whatever the YAML holds there
    """Entry `key` of `place`; None if a section has no such key."""
    if isinstance(place, list):
        if not re.fullmatch("[0-9]{1,9}", key) or int(key) >= len(place):
            raise OptionError(f"{label}: '{key}' is no item of a list of {len(place)}; they count from 0")
        return place[int(key)]
    if not isinstance(place, dict):
        raise OptionError(f"{label}: there is no '{key}' in {shown(place)}, which is a single value")
    return place.get(key)
