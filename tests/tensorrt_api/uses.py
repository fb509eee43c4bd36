"""Find in Python source what it uses of TensorRT: the owner of each attribute is followed through the code.

`module` objects are known by name, and parameters annotated `Any` by a table; from there types go on through
assignments, calls and attributes of `self`. Conditions around a use tell in which versions it is reached.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias


class Owner(NamedTuple):
    """What an expression is: the module, one of its classes, an enum, or an object of a class."""

    kind: Literal["module", "class", "enum", "object"]
    name: str = ""


Function: TypeAlias = ast.FunctionDef | ast.Lambda
Condition: TypeAlias = tuple[ast.expr, bool]
"""An expression, and whether it holds."""
MODULE = Owner("module")


@dataclass(frozen=True)
class Use:
    """One attribute of something of TensorRT's."""

    file: str
    node: ast.Attribute
    owner: Owner
    call: ast.Call | None
    """The call that the attribute is called in."""
    attempted: bool
    """Whether a TypeError, which a wrong call raises, is caught around it."""
    conditions: tuple[Condition, ...]

    def __str__(self) -> str:
        return f"{self.file}:{self.node.lineno}: {ast.unparse(self.node)}"


@dataclass
class Source:
    """One file.

    Known beforehand are the owners of `parameters` annotated `Any`, of other names of which the code does not tell it,
    `local`, and of what methods give: `returns`, by the name of the method.
    """

    path: Path
    parameters: Mapping[str, Owner]
    local: Mapping[str, Owner]
    returns: Mapping[str, Owner]
    enums: frozenset[str]
    classes: frozenset[str]
    tree: ast.Module = field(init=False)
    parents: dict[ast.AST, ast.AST] = field(init=False)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.path.read_text())
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def uses(self) -> Iterator[Use]:
        """Every attribute of something of TensorRT's."""
        for node in self.attributes():
            owner = self.owner(node.value)
            if owner is not None:
                parent = self.parents[node]
                call = parent if isinstance(parent, ast.Call) and parent.func is node else None
                yield Use(self.path.name, node, owner, call, self._is_attempted(node), tuple(self.conditions(node)))

    def _is_attempted(self, node: ast.AST) -> bool:
        for outer in self._outwards(node):
            parent = self.parents.get(outer)
            if isinstance(parent, ast.Try) and outer in parent.body:
                return any(ast.unparse(handler.type) == "TypeError" for handler in parent.handlers if handler.type)
        return False

    def attributes(self) -> Iterator[ast.Attribute]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Attribute))

    def asked(self) -> Iterator[tuple[str, Owner | None, str]]:
        """Names that `hasattr` or `getattr` asks for: where, whose, and the name."""
        for node in self._questions():
            if isinstance(node.args[1], ast.Constant):
                yield f"{self.path.name}:{node.lineno}", self.owner(node.args[0]), str(node.args[1].value)

    def asked_in_turn(self) -> Iterator[tuple[str, list[list[str]]]]:
        """Where `hasattr` or `getattr` asks for a name out of a list, and every list of strings that can be meant.

        A dictionary is two lists, its keys and its values, of which one holds the names.
        """
        constants = {ast.unparse(target): value for target, value in _assignments(self.tree)}
        for node in self._questions():
            function = next(self._functions_around(node), None)
            if isinstance(node.args[1], ast.Constant) or function is None or self.owner(node.args[0]) is None:
                continue
            inside = [inner for inner in ast.walk(function) if isinstance(inner, ast.Name)]
            for root in (function, *(constants[inner.id] for inner in inside if inner.id in constants)):
                yield from ((f"{self.path.name}:{node.lineno}", lists) for lists in _lists_of_strings(root))

    def _questions(self) -> Iterator[ast.Call]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("hasattr", "getattr"):
                yield node

    def subclasses(self) -> Iterator[tuple[ast.ClassDef, Owner]]:
        """Classes of ours that derive from one of TensorRT's."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef):
                yield from ((node, owner) for base in node.bases if (owner := self.owner(base)))

    def untyped_parameters(self) -> set[str]:
        """Names of the parameters annotated `Any`."""
        arguments = (node for node in ast.walk(self.tree) if isinstance(node, ast.arg) and node.annotation)
        return {node.arg for node in arguments if ast.unparse(node.annotation) == "Any"}

    def is_imported(self, node: ast.expr) -> bool:
        """Whether an attribute is one of an imported module or class, or further down."""
        while isinstance(node, ast.Attribute):
            node = node.value
        imports = (inner for inner in ast.walk(self.tree) if isinstance(inner, ast.Import | ast.ImportFrom))
        names = {(alias.asname or alias.name).split(".")[0] for inner in imports for alias in inner.names}
        return isinstance(node, ast.Name) and node.id in names

    # Owners

    def owner(self, node: ast.expr) -> Owner | None:
        """Whose object `node` gives; None if it is not TensorRT's."""
        match node:
            case ast.Name():
                return self._owner_of_name(node)
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if name != "module":
                return self._owner_of_field(node, name)
            case ast.Attribute(attr="module"):
                return MODULE
            case ast.Attribute(value=value, attr=name):
                return self._owner_of_attribute(value, name)
            case ast.Call(func=ast.Name(id="getattr"), args=[value, ast.Constant(value=str(name)), *_]):
                return self._owner_of_attribute(value, name)
            case ast.Call(func=function):
                made = self.owner(function)
                if made and made.kind == "class":
                    return Owner("object", made.name)
                return self.returns.get(function.attr) if isinstance(function, ast.Attribute) else None
        return None

    def _owner_of_attribute(self, value: ast.expr, name: str) -> Owner | None:
        outer = self.owner(value)
        if outer is None or outer.kind == "object":
            return None
        full = f"{outer.name}.{name}".lstrip(".")
        if full in self.enums:
            return Owner("enum", full)
        return Owner("class", full) if full in self.classes else None

    def _owner_of_name(self, node: ast.Name) -> Owner | None:
        for function in self._functions_around(node):
            for parameter in ast.walk(function.args):
                if isinstance(parameter, ast.arg) and parameter.arg == node.id:
                    untyped = parameter.annotation and ast.unparse(parameter.annotation) == "Any"
                    return self.parameters.get(node.id) if untyped else None
            values = [value for target, value in _assignments(function) if ast.unparse(target) == node.id]
            if values:
                return self.owner(values[0]) or self.local.get(node.id)
        return self.local.get(node.id)

    def _owner_of_field(self, node: ast.AST, name: str) -> Owner | None:
        around = next((outer for outer in self._outwards(node) if isinstance(outer, ast.ClassDef)), None)
        values = [value for target, value in _assignments(around) if ast.unparse(target) == f"self.{name}"]
        owners = [owner for value in values if (owner := self.owner(value))]
        return owners[0] if owners else None

    def _functions_around(self, node: ast.AST) -> Iterator[Function]:
        return (outer for outer in self._outwards(node) if isinstance(outer, ast.FunctionDef | ast.Lambda))

    def _outwards(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.parents:
            node = self.parents[node]
            yield node

    # Conditions

    def conditions(self, node: ast.AST) -> Iterator[Condition]:
        """What must hold for `node` to be reached, by every `if` around it and around calls of the private function."""
        inner = node
        for outer in self._outwards(node):
            yield from self._conditions_between(inner, outer)
            if isinstance(outer, ast.FunctionDef):
                yield from self._conditions_of_callers(outer)
            inner = outer

    def _conditions_between(self, inner: ast.AST, outer: ast.AST) -> Iterator[Condition]:
        match outer:
            case ast.If(test=test, body=body) if inner is not test:
                yield from self._parts(test, inner in body)
            case ast.IfExp(test=test, body=body) if inner is not test:
                yield from self._parts(test, inner is body)
            case ast.BoolOp(op=operator, values=values):
                for earlier in values[: values.index(inner)]:
                    yield from self._parts(earlier, isinstance(operator, ast.And))
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp() if inner not in outer.generators:
                for generator in outer.generators:
                    for test in generator.ifs:
                        yield from self._parts(test, True)
        for block in (getattr(outer, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(block, list) and inner in block:
                yield from self._left_before(block[: block.index(inner)])

    def _left_before(self, statements: list[ast.stmt]) -> Iterator[Condition]:
        """After `if test: return` the test does not hold."""
        for statement in statements:
            if isinstance(statement, ast.If) and isinstance(statement.body[-1], ast.Return | ast.Raise | ast.Continue):
                yield from self._parts(statement.test, False)

    def _conditions_of_callers(self, function: ast.FunctionDef) -> Iterator[Condition]:
        """What holds at every call of a private function."""
        if not function.name.startswith("_") or function.name.endswith("__"):
            return
        calls = [
            [(ast.unparse(test), holds, test) for test, holds in self.conditions(node)]
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func).rpartition(".")[2] == function.name
            and function not in self._outwards(node)
        ]
        if calls:
            common = set.intersection(*({(text, holds) for text, holds, _ in call} for call in calls))
            yield from ((test, holds) for text, holds, test in calls[0] if (text, holds) in common)

    def _parts(self, test: ast.expr, holds: bool) -> Iterator[Condition]:
        """What follows if `test` holds or not: the parts of `a and b`, of `not (a or b)`, and what `a` was assigned."""
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield from self._parts(operand, not holds)
            case ast.BoolOp(op=operator, values=values) if isinstance(operator, ast.And) == holds:
                for value in values:
                    yield from self._parts(value, holds)
            case ast.Name() | ast.Attribute(value=ast.Name(id="self")):
                kind = ast.FunctionDef if isinstance(test, ast.Name) else ast.ClassDef
                around = next((outer for outer in self._outwards(test) if isinstance(outer, kind)), None)
                values = [value for target, value in _assignments(around) if ast.unparse(target) == ast.unparse(test)]
                # `a = a or b` says nothing about a, and would never end.
                known = len(values) == 1 and ast.dump(test) not in map(ast.dump, ast.walk(values[0]))
                yield from self._parts(values[0], holds) if known else ()
                yield test, holds
            case _:
                yield test, holds


def _assignments(node: ast.AST | None) -> Iterator[tuple[ast.expr, ast.expr]]:
    for inner in ast.walk(node) if node else ():
        match inner:
            case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
                yield target, value
            case ast.NamedExpr(target=target, value=value):
                yield target, value


def _lists_of_strings(node: ast.AST) -> Iterator[list[list[str]]]:
    for inner in ast.walk(node):
        match inner:
            case ast.Tuple(elts=entries):
                lists = [_strings(entries)]
            case ast.Dict(keys=keys, values=values):
                lists = [_strings(keys), _strings(values)]
            case _:
                continue
        if any(lists):
            yield [strings for strings in lists if strings]


def _strings(entries: Sequence[ast.expr | None]) -> list[str]:
    return [entry.value for entry in entries if isinstance(entry, ast.Constant) and isinstance(entry.value, str)]


def defined_names(paths: Iterable[Path]) -> set[str]:
    """Functions, methods and fields that these files define."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.FunctionDef(name=name) | ast.Attribute(ctx=ast.Store(), value=ast.Name(id="self"), attr=name):
                    found.add(name)
                case ast.AnnAssign(target=ast.Name(id=name)):
                    found.add(name)
    return found
