# SPDX-License-Identifier: Apache-2.0
"""Settings of a pytest run are reloaded, without the user's, whenever they may have changed."""

from __future__ import annotations

import pytest
from prefect import context

from flowgauge.server.isolation import forget_user_settings


def default_retries() -> int:
    """Return a setting as it is outside of flow runs, without what tests change for themselves."""
    return context.GLOBAL_SETTINGS_CONTEXT.settings.flows.default_retries


def test_settings_are_reloaded_once() -> None:
    """As long as nothing changes, settings are not built again."""
    forget_user_settings()
    reloaded = context.GLOBAL_SETTINGS_CONTEXT
    forget_user_settings()
    assert context.GLOBAL_SETTINGS_CONTEXT is reloaded


def test_a_new_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that was set since is in the settings."""
    forget_user_settings()
    monkeypatch.setenv("PREFECT_FLOWS_DEFAULT_RETRIES", "7")
    forget_user_settings()
    assert default_retries() == 7


def test_settings_of_somebody_else_are_replaced() -> None:
    """Settings that somebody put in their place since are replaced, although nothing changed."""
    forget_user_settings()
    reloaded = context.GLOBAL_SETTINGS_CONTEXT
    context.refresh_global_settings_context()
    assert context.GLOBAL_SETTINGS_CONTEXT is not reloaded
    others = context.GLOBAL_SETTINGS_CONTEXT
    forget_user_settings()
    assert context.GLOBAL_SETTINGS_CONTEXT is not others
