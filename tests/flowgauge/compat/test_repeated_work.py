# SPDX-License-Identifier: Apache-2.0
"""What the flow and task runs of a process share is what each would have made for itself."""

from __future__ import annotations

import ssl
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import SettingsContext
from prefect.settings import PREFECT_API_KEY, PREFECT_LOGGING_LEVEL, temporary_settings

from flowgauge.compat.repeated_work import saved_work

LEVELS = ("DEBUG", "INFO", "ERROR")
STOCK = SettingsContext.serialize


def current() -> SettingsContext:
    """Return the current settings."""
    context = SettingsContext.get()
    assert context is not None
    return context


changes = st.lists(
    st.one_of(
        st.tuples(st.just("in place"), st.sampled_from(LEVELS)),
        st.tuples(st.just("others hold"), st.sampled_from(LEVELS)),
        st.tuples(st.just("secrets"), st.booleans()),
        st.just(("nothing", None)),
    ),
    max_size=8,
)


@settings(max_examples=6)
@given(changes)
def test_current_settings_are_serialized(changes: list[tuple[str, Any]]) -> None:
    """However settings change, those that are serialized are always the current ones."""
    with ExitStack() as stack:
        stack.enter_context(temporary_settings({PREFECT_API_KEY: "secret"}))
        stack.enter_context(saved_work())
        secrets = True
        for change, value in changes:
            if change == "in place":
                current().settings.logging.level = value
            elif change == "others hold":
                stack.enter_context(temporary_settings({PREFECT_LOGGING_LEVEL: value}))
            elif change == "secrets":
                secrets = value
            written = current().serialize(include_secrets=secrets)
            assert written == STOCK(current(), include_secrets=secrets)


def test_unchanged_settings_are_serialized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are not serialized again until one changes or the sharing ends."""
    written = []

    def serialize(context: SettingsContext, **given: Any) -> dict[str, Any]:
        written.append(context)
        return STOCK(context, **given)

    monkeypatch.setattr(SettingsContext, "serialize", serialize)
    with saved_work():
        assert current().serialize() is current().serialize()
        assert len(written) == 1
        with temporary_settings({PREFECT_LOGGING_LEVEL: "DEBUG"}):
            current().serialize()
        assert len(written) == 2
    current().serialize()
    assert len(written) == 3


def test_clients_read_certificates_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clients of one process read the trusted certificates only once."""
    read: list[object] = []
    stock = ssl.create_default_context

    def create(*given: Any, **named: Any) -> ssl.SSLContext:
        read.append(named)
        return stock(*given, **named)

    monkeypatch.setattr(ssl, "create_default_context", create)
    with saved_work():
        for _ in range(2):
            SyncPrefectClient("http://127.0.0.1/api")
    assert len(read) == 1
