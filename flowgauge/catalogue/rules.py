# SPDX-License-Identifier: Apache-2.0
"""The rules that let a pattern file work in the project that it is copied to."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from flowgauge.catalogue.headers import CatalogueError, Pattern, display_path, parse, read

_BOUNDS = {"<", "<=", "==", "===", "~="}
_REFERENCE = re.compile(r"`(([a-z_]+)/[a-z_]+)`")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def violations(root: Path, path: Path) -> list[str]:
    """Return what prevents a file from being a pattern that works when copied alone.

    Args:
        root: The folder of the catalogue.
        path: A file below it.

    Returns:
        One line for each fault; if the header can't be read, only that one.
    """
    try:
        pattern = read(root, path)
    except CatalogueError as error:
        return [str(error)]
    source, tree = parse(path)
    faults = (
        *_name_faults(path),
        *_dependency_faults(pattern),
        *_import_faults(pattern, tree),
        *_reference_faults(root, source),
        *_main_faults(tree),
    )
    return [f"{display_path(root, path)}: {fault}" for fault in dict.fromkeys(faults)]


def _name_faults(path: Path) -> Iterator[str]:
    # Python looks into the folder of a script first, for what other packages import, too.
    if path.stem in sys.stdlib_module_names:
        yield f'hides the module "{path.stem}" of the standard library: rename the file'


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
    in_functions = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, _FUNCTIONS)
        for node in ast.walk(function)
    }
    for node, module in _imported(tree):
        package = module.partition(".")[0]
        if package in ("", "patterns"):
            yield f"imports from another pattern ({module}): include the code that it needs"
        elif package == "flowgauge":
            yield f"imports {module}: a pattern must work where flowgauge is not installed"
        elif package in sys.stdlib_module_names or _declares(pattern.dependencies, package):
            continue
        elif not _declares(pattern.optional, package):
            yield f"imports {package}, which is not among its dependencies"
        elif id(node) not in in_functions:
            yield f"imports {package}, which is optional: import it in the function that needs it"


def _imported(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Yield every import with its dotted name; a relative name begins with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, "." * node.level + (node.module or "")


def _declares(dependencies: tuple[str, ...], package: str) -> bool:
    named = {canonicalize_name(re.split(r"[^\w.-]", d)[0]) for d in dependencies}
    if canonicalize_name(package) in named:
        return True
    # A distribution and the package it installs may have different names (PyYAML, yaml).
    return any(canonicalize_name(d) in named for d in _distributions().get(package, ()))


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Return which distributions installed each package; cached because reading them is slow."""
    from importlib.metadata import packages_distributions

    return packages_distributions()


def _reference_faults(root: Path, source: str) -> Iterator[str]:
    """Yield each reference to a pattern that does not exist."""
    for name, topic in _REFERENCE.findall(source):
        exists = (root / f"{name}.py").is_file() or (root / name).is_dir()
        if (root / topic).is_dir() and not exists:
            yield f'refers to "{name}", but there is no such pattern'


def _main_faults(tree: ast.Module) -> Iterator[str]:
    defined = any(isinstance(node, _FUNCTIONS) and node.name == "main" for node in tree.body)
    guarded = any(
        isinstance(node, ast.If)
        and ast.unparse(node.test) == "__name__ == '__main__'"
        and any(isinstance(n, ast.Name) and n.id == "main" for n in ast.walk(node))
        for node in tree.body
    )
    if not (defined and guarded):
        yield 'has no main() called under if __name__ == "__main__": it cannot be run on its own'
