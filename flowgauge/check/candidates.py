# SPDX-License-Identifier: Apache-2.0
"""Find the files of a project that define flows or deployments, without importing any."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEPLOYMENT_FILE = "prefect.yaml"
_SKIPPED = frozenset({"__pycache__", "build", "dist", "node_modules", "site-packages", "tests"})
_PREFECT = ("prefect", "prefect.flows")
_DEPLOYMENTS = "to_deployment"
_WORDS = (b"prefect", _DEPLOYMENTS.encode())


@dataclass(frozen=True)
class Project:
    """The files of a project that are checked.

    Attributes:
        flow_files: Python files that define flows or deployments.
        deployment_files: Each `prefect.yaml`.
        broken: Files that mention Prefect but are not valid Python, with the line and the error.
    """

    flow_files: tuple[Path, ...]
    deployment_files: tuple[Path, ...]
    broken: tuple[tuple[Path, int, str], ...] = ()


def find(path: Path) -> Project:
    """Find what there is to check.

    Args:
        path: A folder, or one Python file, which is checked whatever it contains. Skipped are
            hidden folders, virtual environments, what is built or installed, folders named
            `tests`, and files that pytest collects.

    Returns:
        The files, in the order of their paths.
    """
    if path.is_file():
        error = _defines_flows(path)[1]
        return Project((path,), ()) if error is None else Project((), (), ((path, *error),))
    flow_files, deployment_files, broken = [], [], []
    for file in sorted(_files(path)):
        if file.name == DEPLOYMENT_FILE:
            deployment_files.append(file)
            continue
        defines, error = _defines_flows(file)
        if error is not None:
            broken.append((file, *error))
        elif defines:
            flow_files.append(file)
    return Project(tuple(flow_files), tuple(deployment_files), tuple(broken))


def defines_flows(tree: ast.Module) -> bool:
    """Return whether a module makes flows, or deployments when it is imported.

    Args:
        tree: The parsed module.

    Returns:
        Whether it uses `flow` or `Flow` of Prefect as a decorator or calls it, or calls
        `to_deployment` outside functions and `if __name__ == "__main__"`. Only to load flows from
        elsewhere, with `from_source`, makes none.
    """
    modules, makers = _imported(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=used) if _makes_flows(used, modules, makers):
                return True
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                if any(_makes_flows(used, modules, makers) for used in node.decorator_list):
                    return True
    return _makes_deployments(tree)


def _imported(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Return the names of Prefect's modules in a file, and those of what makes flows."""
    modules, makers = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "prefect":
                    modules.add(alias.asname or "prefect")
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in _PREFECT:
            for alias in node.names:
                if alias.name in ("flow", "Flow"):
                    makers.add(alias.asname or alias.name)
                elif alias.name == "flows":
                    modules.add(alias.asname or alias.name)
                elif alias.name == "*":
                    makers.update(("flow", "Flow"))
    return modules, makers


def _makes_flows(used: ast.expr, modules: set[str], makers: set[str]) -> bool:
    """Return whether an expression is `flow`, `prefect.flow` or the like."""
    if isinstance(used, ast.Name):
        return used.id in makers
    if isinstance(used, ast.Attribute) and used.attr in ("flow", "Flow"):
        return ast.unparse(used.value).partition(".")[0] in modules
    return False


def _makes_deployments(tree: ast.Module) -> bool:
    called = {
        node.func.attr
        for statement in tree.body
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not _is_main_guard(statement)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    return _DEPLOYMENTS in called and "from_source" not in called


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


def _defines_flows(file: Path) -> tuple[bool, tuple[int, str] | None]:
    """Return whether a file defines flows, and its line and error if it can't be parsed."""
    source = file.read_bytes()
    if not any(word in source for word in _WORDS):
        return False, None
    try:
        return defines_flows(ast.parse(source)), None
    except SyntaxError as error:
        return False, (error.lineno or 1, f"{type(error).__name__}: {error.msg}")
    except ValueError as error:  # null bytes, before Python 3.12
        return False, (1, f"SyntaxError: {error}")


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not _is_skipped(Path(folder, name))]
        for name in names:
            is_code = name.endswith(".py") and not name.startswith(".") and not _is_test(name)
            if is_code or name == DEPLOYMENT_FILE:
                yield Path(folder, name)


def _is_skipped(folder: Path) -> bool:
    name = folder.name
    is_environment = (folder / "pyvenv.cfg").exists()
    return name.startswith(".") or name in _SKIPPED or is_environment


def _is_test(name: str) -> bool:
    return name == "conftest.py" or name.startswith("test_") or name.endswith("_test.py")
