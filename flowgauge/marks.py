# SPDX-License-Identifier: Apache-2.0
"""The marks of tests: which guarantee or fact each proves, read without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flowgauge.headers import CatalogueError

Kind = Literal["guarantee", "fact"]


@dataclass(frozen=True)
class Proof:
    """A test of a guarantee or of a fact.

    Attributes:
        kind: Which of the two.
        pattern: The pattern's name.
        id: Of the guarantee or fact.
        file: The file of the test.
        test: The test as pytest names it within its file: `test_a` or `TestClass::test_a`.
    """

    kind: Kind
    pattern: str
    id: str
    file: Path
    test: str


def proofs(tests_root: Path) -> tuple[Proof, ...]:
    """Read from test files what they prove.

    Args:
        tests_root: A folder of test files.

    Returns:
        One proof for each `guarantee` and `fact` mark on a test.

    Raises:
        CatalogueError: If a file is not Python, or a mark's names can't be read from it.
    """
    return tuple(proof for path in sorted(tests_root.rglob("test_*.py")) for proof in _in(path))


def _in(path: Path) -> Iterator[Proof]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path} is not Python: {error}") from None
    names = dict(_string_constants(tree))
    for test, mark, kind in _marks(tree, ""):
        values = [_string(argument, names) for argument in mark.args]
        match values:
            case [str(pattern), str(id_)]:
                yield Proof(kind, pattern, id_, path, test)
            case _:
                raise CatalogueError(
                    f"{path}:{mark.lineno}: write the pattern and the {kind} of the mark as"
                    " strings, or as names of strings given at the top of this file"
                )


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


def _marks(node: ast.AST, outer: str) -> Iterator[tuple[str, ast.Call, Kind]]:
    """Yield the name of each marked function or class, its mark, and what the mark proves."""
    for child in ast.iter_child_nodes(node):
        name = outer
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{outer}::{child.name}" if outer else child.name
            for decorator in child.decorator_list:
                match decorator:
                    case ast.Call(
                        func=ast.Attribute(
                            attr="guarantee" | "fact" as kind, value=ast.Attribute(attr="mark")
                        )
                    ):
                        yield name, decorator, "fact" if kind == "fact" else "guarantee"
        yield from _marks(child, name)
