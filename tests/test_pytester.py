# SPDX-License-Identifier: Apache-2.0
"""What `conftest.py` makes of pytest's own `pytester`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest


class Modules(dict[str, ModuleType]):
    """Loaded modules, which note what was ever missing among them."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.missed: set[str] = set()

    def clear(self) -> None:
        """Empty them."""
        self.missed.update(self)
        super().clear()

    def pop(self, name: str, *default: Any) -> Any:
        """Take one away."""
        self.missed.add(name)
        return super().pop(name, *default)

    def __delitem__(self, name: str) -> None:
        self.missed.add(name)
        super().__delitem__(name)


def test_no_module_is_missing_while_they_are_put_back(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The modules that a test of pytester loaded go, and no other is away for a moment."""
    before = dict(sys.modules)
    modules = Modules(before, loaded_by_a_test=ModuleType("loaded_by_a_test"))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "modules", modules)
        pytester._sys_modules_snapshot.restore()
    assert modules.missed == {"loaded_by_a_test"}
    assert modules == before
