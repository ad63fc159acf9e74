# SPDX-License-Identifier: Apache-2.0
"""Settings of the process that runs tests of what reloads them."""

from __future__ import annotations

import pytest
from prefect import context


@pytest.fixture(autouse=True)
def settings_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore this process's settings after the test."""
    monkeypatch.setattr(context, "GLOBAL_SETTINGS_CONTEXT", context.GLOBAL_SETTINGS_CONTEXT)
