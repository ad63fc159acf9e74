# SPDX-License-Identifier: Apache-2.0
"""The task runners of the catalogue, importable in this process and in workers it prepares."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from types import ModuleType

_NAME = re.compile(r"flowgauge_(\w+)_pattern")


class _Finder(MetaPathFinder):
    """Finds patterns, which nobody need have on their path, by names that are nobody else's."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        named = _NAME.fullmatch(fullname)
        if named is None:
            return None
        from flowgauge.catalogue import catalogue_root

        return spec_from_file_location(
            fullname, catalogue_root() / "task_runners" / f"{named[1]}.py"
        )


def find_patterns() -> None:
    """Let this process import what others pickled by its name."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def pattern(name: str, *, travels: bool = False) -> ModuleType:
    """Import a task runner of the catalogue.

    Args:
        name: That of its file.
        travels: Whether what is of it is pickled whole, for processes that were not prepared.

    Returns:
        The module.

    Raises:
        ImportError: If it does not work with the Prefect that is installed.
    """
    find_patterns()
    module = importlib.import_module(f"flowgauge_{name}_pattern")
    if travels:
        import cloudpickle

        cloudpickle.register_pickle_by_value(module)
    return module
