# SPDX-License-Identifier: Apache-2.0
"""Features that work only where certain names of Prefect are there.

Without one of its names a feature is off, and says so; nothing else suffers.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_OFF = "off.txt"


@dataclass(frozen=True)
class PrivateName:
    """Something in a module.

    Attributes:
        module: The module.
        path: Where it is in there, as `__qualname__` writes it.
        uses: What its code must use: the functions that are replaced there, and variables that
            are read.
    """

    module: str
    path: str
    uses: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """The name itself."""
        return self.path.rpartition(".")[2]

    def missing(self) -> str:
        """Say what is not as it should be; empty if all is."""
        try:
            return self.missing_in(importlib.import_module(self.module))
        except ImportError:
            return f"there is no module {self.module}"

    def missing_in(self, module: ModuleType) -> str:
        """Say what is not as it should be in a module; empty if all is.

        Args:
            module: The module, or a copy of it.
        """
        place: Any = module
        try:
            for step in self.path.split("."):
                place = _step(place, step)
        except AttributeError:
            return f"{self.module} has no {self.path}"
        unused = [name for name in self.uses if name not in _used_by(place)]
        return f"{self.path} of {self.module} does not use {unused[0]}" if unused else ""


@dataclass(frozen=True)
class Feature:
    """What works only where certain names are there.

    Attributes:
        name: What people call it.
        names: What it stands on.
        instead: What is done without it; empty where tests that ask for it fail.
    """

    name: str
    names: tuple[PrivateName, ...]
    instead: str = ""


@functools.cache
def missing(feature: Feature) -> str:
    """Say why a feature does not work with the Prefect that is installed.

    Args:
        feature: It is looked for once in a process.

    Returns:
        One line; empty if it works.
    """
    what = next((what for name in feature.names if (what := name.missing())), "")
    return off(feature, what) if what else ""


def usable(feature: Feature, home: Path) -> bool:
    """Return whether a feature works here; if not, that is noted for the end of the run.

    Args:
        feature: One that the run can do without.
        home: The folder of the run.
    """
    if line := missing(feature):
        note_off(line, feature, home)
    return not line


@functools.cache
def note_off(line: str, feature: Feature, home: Path) -> None:
    """Note for the end of the run that a feature is off, once in a process.

    Args:
        line: Why.
        feature: The feature.
        home: The folder of the run; nothing is noted where it is not, on another machine.
    """
    if home.is_dir():
        with (home / _OFF).open("a") as file:
            file.write(f"{line}: {feature.instead}\n")


def off(feature: Feature, what: str) -> str:
    """Return the line that says that a feature is off.

    Args:
        feature: The feature.
        what: What is missing.
    """
    import prefect

    from flowgauge.compat.tested_prefect import PROVED_WITH

    proved = " and ".join(PROVED_WITH)
    return (
        f"{feature.name}: off with Prefect {prefect.__version__}, where {what} (flowgauge was"
        f" proved with {proved})"
    )


def features_off(home: Path) -> list[str]:
    """Return what was noted of features that are off, each once.

    Args:
        home: The folder of the run.

    Returns:
        A line for each, in the order in which they were first noted.
    """
    file = home / _OFF
    return list(dict.fromkeys(file.read_text().splitlines())) if file.is_file() else []


def _step(place: Any, step: str) -> Any:
    if isinstance(place, CodeType):
        found = [c for c in place.co_consts if isinstance(c, CodeType) and c.co_name == step]
        if not found:
            raise AttributeError(step)
        return found[0]
    if step == "<locals>":
        return _code_of(place)
    # Fields of models and annotated attributes are no attributes of a class.
    if inspect.isclass(place) and any(
        step in vars(c).get("__annotations__", {}) for c in place.__mro__
    ):
        return None
    return getattr(place, step)


def _code_of(function: Any) -> CodeType:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        raise AttributeError("__code__")
    return code  # type: ignore[no-any-return]


def _used_by(function: Any) -> set[str]:
    """Return the names that the code of a function uses, and those of its own variables."""
    code = function if isinstance(function, CodeType) else _code_of(function)
    return {*code.co_names, *code.co_varnames, *code.co_cellvars, *code.co_freevars}
