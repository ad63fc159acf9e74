# SPDX-License-Identifier: Apache-2.0
"""How `conftest.py` changes pytest's own `pytester`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest


class Modules(dict[str, ModuleType]):
    """Loaded modules, which record each name that was ever removed."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.missed: set[str] = set()

    def clear(self) -> None:
        """Remove all modules."""
        self.missed.update(self)
        super().clear()

    def pop(self, name: str, *default: Any) -> Any:
        """Remove one module."""
        self.missed.add(name)
        return super().pop(name, *default)

    def __delitem__(self, name: str) -> None:
        self.missed.add(name)
        super().__delitem__(name)


def test_no_module_is_missing_while_modules_are_restored(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules that a test with pytester loaded are removed, and no other is, even for a moment."""
    before = dict(sys.modules)
    modules = Modules(before, loaded_by_a_test=ModuleType("loaded_by_a_test"))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "modules", modules)
        pytester._sys_modules_snapshot.restore()
    assert modules.missed == {"loaded_by_a_test"}
    assert modules == before
