# SPDX-License-Identifier: Apache-2.0
"""The rules that a pattern file keeps so that it works where it was copied to."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from flowgauge.catalogue.headers import CatalogueError, Pattern, parsed, read, shown

_BOUNDS = {"<", "<=", "==", "===", "~="}
_REFERENCE = re.compile(r"`(([a-z_]+)/[a-z_]+)`")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def violations(root: Path, path: Path) -> list[str]:
    """Say what keeps a file from being a pattern that can be copied alone.

    Args:
        root: The folder of the catalogue.
        path: A file below it.

    Returns:
        One line for each fault; a header that can't be read hides those of the code.
    """
    try:
        pattern = read(root, path)
    except CatalogueError as error:
        return [str(error)]
    source, tree = parsed(path)
    found = (
        *_dependency_faults(pattern),
        *_import_faults(pattern, tree),
        *_reference_faults(root, source),
        *_main_faults(tree),
    )
    return [f"{shown(root, path)}: {fault}" for fault in dict.fromkeys(found)]


def _dependency_faults(pattern: Pattern) -> Iterator[str]:
    for text in (*pattern.dependencies, *pattern.optional):
        try:
            bounds = {specifier.operator for specifier in Requirement(text).specifier}
        except InvalidRequirement:
            yield f'dependency "{text}" is not a requirement such as "prefect>=3.8,<4"'
            continue
        if not bounds & _BOUNDS:
            yield f'dependency "{text}" has no upper bound: add one, such as "<4"'


def _import_faults(pattern: Pattern, tree: ast.Module) -> Iterator[str]:
    inside = {
        id(node)
        for each in ast.walk(tree)
        if isinstance(each, _FUNCTIONS)
        for node in ast.walk(each)
    }
    for node, module in _imported(tree):
        package = module.partition(".")[0]
        if package in ("", "patterns"):
            yield f"imports from another pattern ({module}): copy what it needs into it"
        elif package == "flowgauge":
            yield f"imports {module}: a pattern must work where flowgauge is not installed"
        elif package in sys.stdlib_module_names or _declares(pattern.dependencies, package):
            continue
        elif not _declares(pattern.optional, package):
            yield f"imports {package}, which its dependencies do not name"
        elif id(node) not in inside:
            yield f"imports {package}, which is optional: import it in the function that needs it"


def _imported(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Yield every import and its dotted name; a relative one begins with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, "." * node.level + (node.module or "")


def _declares(dependencies: tuple[str, ...], package: str) -> bool:
    named = {canonicalize_name(re.split(r"[^\w.-]", d)[0]) for d in dependencies}
    if canonicalize_name(package) in named:
        return True
    # A distribution may be called otherwise than what it installs (PyYAML, yaml).
    return any(canonicalize_name(d) in named for d in _distributions().get(package, ()))


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Return which distributions installed each package; reading that takes long."""
    from importlib.metadata import packages_distributions

    return packages_distributions()


def _reference_faults(root: Path, source: str) -> Iterator[str]:
    """Yield each pattern that is pointed to and does not exist."""
    for name, topic in _REFERENCE.findall(source):
        exists = (root / f"{name}.py").is_file() or (root / name).is_dir()
        if (root / topic).is_dir() and not exists:
            yield f'points to "{name}", and there is no such pattern'


def _main_faults(tree: ast.Module) -> Iterator[str]:
    defined = any(isinstance(node, _FUNCTIONS) and node.name == "main" for node in tree.body)
    guarded = any(
        isinstance(node, ast.If)
        and ast.unparse(node.test) == "__name__ == '__main__'"
        and any(isinstance(n, ast.Name) and n.id == "main" for n in ast.walk(node))
        for node in tree.body
    )
    if not (defined and guarded):
        yield 'has no main() called under if __name__ == "__main__": it cannot show itself'
