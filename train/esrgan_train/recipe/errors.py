"""Error messages for recipes: one line with the place, the value and the nearest name that is known."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

Model = type[BaseModel]
QUOTES = "'\""
_SHOWN = 80
"""Characters of a value in a message."""

OTHER_NAMES: Mapping[str, str] = {
    "learning_rate": "lr",
    "batch_size": "batch",
    "iterations": "steps",
    "total_iter": "steps",
    "epochs": "steps",
    "patch_size": "patch",
    "gt_size": "patch",
    "ema_decay": "ema",
    "milestones": "at",
    "gamma": "factor",
    "num_workers": "workers",
    "manual_seed": "seed",
    "optimizer": "optimiser",
    "loss_weight": "weight",
    "layer_weights": "layers",
    "gan_type": "kind",
    "pretrain_network_g": "start_from",
}
"""Names from BasicSR and other trainers -> our keys."""


def shown(value: object) -> str:
    """`repr(value)`, of its beginning where it is long."""
    if isinstance(value, int) and value.bit_length() > _SHOWN * 3:
        return f"a number of {value.bit_length() * 3 // 10} digits"  # Python does not print long ones
    text = repr(value[: 2 * _SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 20]} ... {text[-10:]}"


def explain(error: ValidationError, root: Model) -> str:
    """The first of the problems that pydantic found in a `root`."""
    problem = error.errors(include_url=False)[0]
    location = list(problem["loc"])
    if problem["type"] == "extra_forbidden":
        key = str(location.pop())
        place, models = _follow(location, root)
        return f"unknown key '{key}'{f' in {place}' if place else ''}; {_nearest_key(key, place, models, root)}"
    place, _ = _follow(location, root)
    return f"{place + ': ' if place else ''}{_message(problem)}"


def _message(problem: Mapping[str, Any]) -> str:
    value, context = problem.get("input"), problem.get("ctx", {})
    if problem["type"] == "missing":
        return "is missing; every recipe needs it"
    if problem["type"] == "literal_error":
        return f"{shown(value)} is unknown; {nearest(shown(value).strip(QUOTES), _quoted(context['expected']))}"
    if problem["type"] == "union_tag_invalid":
        tag = shown(context["tag"])
        return f"{tag} is unknown; {nearest(tag.strip(QUOTES), _quoted(context['expected_tags']))}"
    if problem["type"] == "union_tag_not_found":
        return f"does not say which {context['discriminator'][1:-1]} it is"
    message = str(problem["msg"]).removeprefix("Value error, ")
    it = "" if isinstance(value, dict | list | BaseModel) else f" (it is {shown(value)})"
    return f"{message[0].lower()}{message[1:]}{it}"


def _quoted(text: str) -> list[str]:
    """The words that a message of pydantic has in quotation marks."""
    return re.findall(r"'([^']*)'", text)


def nearest(name: str, known: Iterable[str]) -> str:
    """The question "did you mean" with the nearest name in `known`; a list of all of them if none is near."""
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"


def _nearest_key(key: str, place: str, models: Sequence[Model], root: Model) -> str:
    """The question "did you mean" with the nearest key and its path; a list of the section's keys if none is near."""
    own = {name: name for model in models for name in model.model_fields}
    section = re.sub(r"\.\d+", "", place)
    paths = {name: path for name, path in _paths(root) if path != f"{section}.{name}"} | own
    words = {other: paths[name] for other, name in OTHER_NAMES.items() if name in paths} | paths
    close = difflib.get_close_matches(key, words, n=1, cutoff=0.7)
    return f"did you mean '{words[close[0]]}'?" if close else nearest(key, own)


def _paths(root: Model) -> Iterator[tuple[str, str]]:
    """Every key of every section with its path. The shortest path of a key comes last, and so is kept in a dict."""
    found: list[tuple[str, str]] = []
    level = [("", root)]
    while level:
        found += [(name, f"{prefix}{name}") for prefix, model in level for name in model.model_fields]
        level = [
            (f"{prefix}{name}.", inner)
            for prefix, model in level
            for name, field in model.model_fields.items()
            for inner in _models(field.annotation)
        ]
    return reversed(found)


def _follow(location: Sequence[int | str], root: Model) -> tuple[str, list[Model]]:
    """A `location` of pydantic as `--set` writes it, and the models that the section at this place can have.

    Where a section has one of several models, pydantic inserts the name of its kind into the location.
    """
    models: list[Model] = [root]
    shown: list[str] = []
    for part in location:
        if isinstance(part, int):
            shown.append(str(part))
        elif len(models) > 1:
            models = [next(model for model in models if part in _kinds(model))]
        else:
            shown.append(part)
            fields = models[0].model_fields if models else {}
            models = list(_models(fields[part].annotation)) if part in fields else []
    return ".".join(shown), models


def _kinds(model: Model) -> tuple[str, ...]:
    """The values of the first key of a section, if that key tells the section's kind."""
    return typing.get_args(next(iter(model.model_fields.values())).annotation)


def _models(annotation: Any) -> Iterator[Model]:  # noqa: ANN401 - any type annotation
    """Every model that a type annotation mentions."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for inner in typing.get_args(annotation):
        yield from _models(inner)
