# SPDX-License-Identifier: Apache-2.0
"""Features that work only if certain names of Prefect exist.

If one of its names is missing, a feature is off and says so; nothing else is affected.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from flowgauge.append_log import locked, values_from, write_value

_OFF = "features-off.jsonl"


@dataclass(frozen=True)
class PrivateName:
    """A name that is not part of a module's public interface.

    Attributes:
        module: The module.
        path: Where it is in the module, written like a `__qualname__`.
        uses: The names that its code must use: functions that are replaced there, and variables
            that are read.
    """

    module: str
    path: str
    uses: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    def missing(self) -> str:
        """Return what is not as it should be; empty if everything is."""
        try:
            return self.missing_in(importlib.import_module(self.module))
        except ImportError:
            return f"there is no module {self.module}"

    def missing_in(self, module: ModuleType) -> str:
        """Return what is not as it should be in a module; empty if everything is.

        Args:
            module: The module, or a copy of it.

        Returns:
            The problem, as part of a sentence; empty if there is none.
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
    """A feature that works only if certain names exist.

    Attributes:
        name: What to call it in messages.
        names: The names that it is built on.
        instead: What happens without it; empty if tests that request it fail.
    """

    name: str
    names: tuple[PrivateName, ...]
    instead: str = ""


@functools.cache
def missing(feature: Feature) -> str:
    """Return why a feature does not work with the installed Prefect.

    Args:
        feature: The feature; it is checked once per process.

    Returns:
        One line; empty if it works.
    """
    problem = next((problem for name in feature.names if (problem := name.missing())), "")
    return off(feature, problem) if problem else ""


def usable(feature: Feature, home: Path) -> bool:
    """Return whether a feature works here; if not, record that for the end of the pytest run.

    Args:
        feature: A feature that the pytest run can do without.
        home: The folder of the pytest run.

    Returns:
        Whether it works.
    """
    if line := missing(feature):
        note_off(line, feature, home)
    return not line


@functools.cache
def note_off(line: str, feature: Feature, home: Path) -> None:
    """Record for the end of the pytest run that a feature is off, once per process.

    Args:
        line: The line that says why.
        feature: The feature.
        home: The folder of the pytest run; nothing is recorded if it does not exist, on another
            machine.
    """
    if home.is_dir():
        with locked(home / _OFF) as log:
            write_value(log, f"{line}: {feature.instead}")


def off(feature: Feature, problem: str) -> str:
    """Return the line that says that a feature is off.

    Args:
        feature: The feature.
        problem: What is missing, as `PrivateName.missing` returns it.

    Returns:
        The line.
    """
    import prefect

    from flowgauge.compat.tested_prefect import PROVED_WITH

    versions = " and ".join(PROVED_WITH)
    return (
        f"{feature.name}: off with Prefect {prefect.__version__}, where {problem} (flowgauge is"
        f" proved with {versions})"
    )


def features_off(home: Path) -> list[str]:
    """Return what was recorded about features that are off, without duplicates.

    Args:
        home: The folder of the pytest run.

    Returns:
        One line for each, in the order in which they were first recorded.
    """
    lines, _ = values_from(home / _OFF, 0)
    return list(dict.fromkeys(lines))


def _step(place: Any, step: str) -> Any:
    if isinstance(place, CodeType):
        codes = [c for c in place.co_consts if isinstance(c, CodeType) and c.co_name == step]
        if not codes:
            raise AttributeError(step)
        return codes[0]
    if step == "<locals>":
        return _code_of(place)
    # Model fields and annotated attributes are not attributes of the class.
    if inspect.isclass(place) and any(
        step in vars(c).get("__annotations__", {}) for c in place.__mro__
    ):
        return None
    return getattr(place, step)


def _code_of(function: Any) -> CodeType:
    function = function.fget if isinstance(function, property) else function
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        raise AttributeError("__code__")
    return code  # type: ignore[no-any-return]


def _used_by(function: Any) -> set[str]:
    """Return the names that a function's code uses, including its own variables."""
    code = function if isinstance(function, CodeType) else _code_of(function)
    return {*code.co_names, *code.co_varnames, *code.co_cellvars, *code.co_freevars}
