# SPDX-License-Identifier: Apache-2.0
"""Copies of the installed Prefect with other private names, as a later release may have."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import prefect


def copied_prefect(folder: Path) -> Path:
    """Make a copy of the installed Prefect; files are shared until they are changed.

    Args:
        folder: Where to put it; first in `PYTHONPATH`, it replaces the installed package.

    Returns:
        The folder of the package.
    """
    source, copy = Path(prefect.__file__).parent, folder / "prefect"
    for parent, _, files in os.walk(source):
        place = copy / Path(parent).relative_to(source)
        place.mkdir(parents=True)
        for name in files:
            _share(Path(parent, name), place / name)
    return copy


def _share(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())


def _rewrite(file: Path, change: Callable[[str], str]) -> bool:
    text = file.read_text()
    changed = change(text)
    if changed != text:
        file.unlink()
        file.write_text(changed)
    return changed != text


def rename(copy: Path, word: str) -> None:
    """Rename a class, a method or an attribute wherever it is used.

    Args:
        copy: The package.
        word: Its name, which nothing else has.
    """
    found = [
        _rewrite(file, lambda text: re.sub(rf"\b{word}\b", f"{word}_of_later", text))
        for file in copy.rglob("*.py")
    ]
    assert any(found), f"nothing is called {word}"


def rename_in(copy: Path, module: str, word: str) -> None:
    """Rename something in one module only.

    Args:
        copy: The package.
        module: Such as `prefect.futures`.
        word: The name.
    """
    assert _rewrite(_file(copy, module), lambda text: re.sub(rf"\b{word}\b", f"{word}_2", text))


def move(copy: Path, module: str) -> None:
    """Rename a module.

    Args:
        copy: The package.
        module: Such as `prefect.types._datetime`.
    """
    file = _file(copy, module)
    file.rename(file.with_stem(f"{file.stem}_of_later"))
    parent, _, name = module.rpartition(".")
    words = rf"\b{re.escape(module)}\b|\bfrom {re.escape(parent)} import {name}\b"
    for each in copy.rglob("*.py"):
        beside = rf"|\bfrom \.{name}\b" if each.parent == file.parent else ""
        _rewrite(each, partial(re.compile(words + beside).sub, r"\g<0>_of_later"))


def hide(copy: Path, module: str, kind: str, method: str) -> None:
    """Remove a method from a class, but not from its instances.

    Args:
        copy: The package.
        module: Such as `prefect.task_engine`.
        kind: The class.
        method: Its method, whose name other classes use as well.
    """
    hidden = f'''

class _OfInstances:
    def __init__(self, stock):
        self.stock = stock

    def __get__(self, instance, owner):
        if instance is None:
            raise AttributeError("{method}")
        return self.stock.__get__(instance, owner)


{kind}.{method} = _OfInstances({kind}.{method})
'''
    assert _rewrite(_file(copy, module), lambda text: text + hidden)


def import_as(copy: Path, module: str, name: str) -> None:
    """Make a module import something under another name.

    Args:
        copy: The package.
        module: Such as `prefect.task_engine`.
        name: What it imports with `import` or `from ... import` on a separate line.
    """

    def change(text: str) -> str:
        used = re.sub(rf"(?<!import )(?<!\.)\b{name}(?=[.(])", f"{name}_2", text)
        return re.sub(rf"^((?:from \S+ )?import {name})$", rf"\1 as {name}_2", used, flags=re.M)

    assert _rewrite(_file(copy, module), change)


def _file(copy: Path, module: str) -> Path:
    place = copy.parent.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
