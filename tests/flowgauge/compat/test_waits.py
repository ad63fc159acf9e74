# SPDX-License-Identifier: Apache-2.0
"""All waits of Prefect's client: the virtual clock knows what to do with each."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import prefect

from flowgauge.compat import waits
from flowgauge.compat.features import PrivateName

NAMES = (
    *waits.DEADLINES,
    *waits.POLLS,
    *waits.ASYNC_WATCHES,
    *waits.SYNC_WATCHES,
    *waits.TOLD,
)


def sleepers(node: ast.AST, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the functions in a syntax tree that call something named `sleep`."""
    for child in ast.iter_child_nodes(node):
        inner = path
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = (*path, child.name)
        if isinstance(child, ast.Call):
            name = child.func
            if "sleep" in (getattr(name, "attr", ""), getattr(name, "id", "")):
                yield ".".join(inner)
        yield from sleepers(child, inner)


@functools.cache
def found_in(folder: Path) -> set[tuple[str, str]]:
    """Return module and function of each call of `sleep` in Prefect, but for what is elsewhere."""
    found = set()
    for file in folder.rglob("*.py"):
        parts = file.relative_to(folder.parent).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        elsewhere = f"{module}.".startswith(tuple(f"{name}." for name in waits.ELSEWHERE))
        if not elsewhere and "sleep" in (text := file.read_text()):
            found |= {(module, name) for name in sleepers(ast.parse(text))}
    return found


def place(name: PrivateName) -> tuple[str, str]:
    """Return the module and the function of a name, as `found_in` has them."""
    return name.module, name.path.replace(".<locals>", "")


def test_every_wait_is_known() -> None:
    """Prefect's client sleeps nowhere but in functions that are skipped, told or left by name."""
    left = {(module, name) for module, names in waits.LEFT.items() for name in names}
    found = found_in(Path(prefect.__file__).parent)
    known = {place(name) for name in NAMES} | left
    assert sorted(found - known) == []


def test_nothing_is_listed_that_does_not_wait() -> None:
    """Each function that is skipped or told sleeps, or has a time limit, in this Prefect."""
    found = found_in(Path(prefect.__file__).parent)
    limits = {place(name) for name in waits.ASYNC_WATCHES if "move_on_after" in name.uses}
    assert sorted({place(name) for name in NAMES} - found - limits) == []


def test_a_new_wait_is_found(tmp_path: Path) -> None:
    """Methods, nested functions and other names of the module are no place to hide a wait."""
    package = tmp_path / "prefect"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "rooms.py").write_text(
        "class Room:\n    async def enter(self):\n        async def wait():\n"
        "            await anyio.sleep(5)\n\n\ndef leave():\n    sleep(1)\n"
    )
    assert found_in(package) == {("prefect.rooms", "Room.enter.wait"), ("prefect.rooms", "leave")}
