# SPDX-License-Identifier: Apache-2.0
"""Read from the marks of tests which guarantee or fact each proves, without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from flowgauge.catalogue.headers import CatalogueError

MarkKind = Literal["guarantee", "fact"]


@dataclass(frozen=True)
class Proof:
    """A test that proves a guarantee or a fact.

    Attributes:
        kind: Whether it proves a guarantee or a fact.
        pattern: The pattern's name.
        id: The id of the guarantee or fact.
        file: The file of the test.
        test: The test's name within its file, as in pytest: `test_a` or `TestClass::test_a`.
        marks: All marks of the test, its class and its file: `e2e`, `runners`.
        fixtures: The names of the test's parameters.
    """

    kind: MarkKind
    pattern: str
    id: str
    file: Path
    test: str
    marks: frozenset[str] = frozenset()
    fixtures: frozenset[str] = frozenset()


def proofs(tests_root: Path) -> tuple[Proof, ...]:
    """Read what the tests in a folder prove.

    Args:
        tests_root: A folder of test files.

    Returns:
        One proof for each `guarantee` and `fact` mark on a test.

    Raises:
        CatalogueError: If a file is not Python, or a mark's arguments can't be read from it.
    """
    return tuple(
        proof for path in sorted(tests_root.rglob("test_*.py")) for proof in _proofs_in(path)
    )


def _proofs_in(path: Path) -> Iterator[Proof]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path} is not Python: {error}") from None
    names = dict(_string_constants(tree))
    yield from _proofs_below(tree, path, names, "", frozenset(_file_marks(tree)))


def _string_constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield each `NAME = "text"` at the top level of a module."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        match getattr(node, "value", None):
            case ast.Constant(value=str(text)):
                yield from ((name.id, text) for name in targets if isinstance(name, ast.Name))


def _string(node: ast.expr, names: dict[str, str]) -> str | None:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name):
            return names.get(name)
    return None


def _proofs_below(
    node: ast.AST, path: Path, names: dict[str, str], outer: str, around: frozenset[str]
) -> Iterator[Proof]:
    """Yield the proofs in a node; `around` are the marks of what encloses it."""
    for child in ast.iter_child_nodes(node):
        name, marks = outer, around
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{outer}::{child.name}" if outer else child.name
            own = [mark for node in child.decorator_list if (mark := _mark(node)) is not None]
            marks = around | {kind for kind, _ in own}
            arguments = getattr(child, "args", None)
            fixtures = frozenset(a.arg for a in arguments.args) if arguments else frozenset()
            for kind, call in own:
                if kind in get_args(MarkKind):
                    pattern, id_ = _pattern_and_id(call, kind, path, names)
                    yield Proof(cast(MarkKind, kind), pattern, id_, path, name, marks, fixtures)
        yield from _proofs_below(child, path, names, name, marks)


def _mark(node: ast.expr) -> tuple[str, ast.Call | None] | None:
    """Return the name of a mark `@pytest.mark.name(...)`, and the call if it has arguments."""
    call = node if isinstance(node, ast.Call) else None
    match call.func if call else node:
        case ast.Attribute(attr=name, value=ast.Attribute(attr="mark")):
            return name, call
    return None


def _file_marks(tree: ast.Module) -> Iterator[str]:
    """Yield the marks that a file applies to all its tests."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="pytestmark")], value=value):
                listed = value.elts if isinstance(value, ast.List) else [value]
                yield from (mark[0] for item in listed if (mark := _mark(item)) is not None)


def _pattern_and_id(
    call: ast.Call | None, kind: str, path: Path, names: dict[str, str]
) -> tuple[str, str]:
    """Return the pattern and the id that a mark names."""
    match [_string(argument, names) for argument in (call.args if call else ())]:
        case [str(pattern), str(id_)]:
            return pattern, id_
    line = f":{call.lineno}" if call else ""
    raise CatalogueError(
        f"{path}{line}: write the pattern and the {kind} of the mark as strings, or as names of"
        " string constants at the top level of this file"
    )
