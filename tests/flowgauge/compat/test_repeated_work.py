# SPDX-License-Identifier: Apache-2.0
"""What the flow and task runs of a process share is what each would have made for itself."""

from __future__ import annotations

import ssl
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import SettingsContext
from prefect.settings import (
    PREFECT_API_KEY,
    PREFECT_LOGGING_LEVEL,
    Settings,
    temporary_settings,
)

from flowgauge.compat.repeated_work import saved_work

LEVELS = ("DEBUG", "INFO", "ERROR")
STOCK = SettingsContext.serialize
STOCK_VARIABLES = Settings.to_environment_variables
STOCK_INIT = SettingsContext.__init__


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


@settings(max_examples=3)
@example([("in place", "ERROR"), ("nothing", None), ("others hold", "DEBUG"), ("secrets", False)])
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
            held = current().settings
            given = {"exclude_unset": True, "include_secrets": secrets}
            variables = held.to_environment_variables(**given)
            assert variables == STOCK_VARIABLES(held, **given)
            # Whoever asked may change them.
            variables.clear()


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


outside = st.lists(
    st.one_of(
        st.tuples(st.just("others arrive"), st.sampled_from(LEVELS)),
        st.tuples(st.just("changed by a task"), st.sampled_from(LEVELS)),
        st.tuples(st.just("variable"), st.integers(1, 3)),
        st.tuples(st.just("file"), st.integers(1, 3)),
        st.tuples(st.just("folder"), st.sampled_from(["a", "b"])),
        st.just(("nothing", None)),
    ),
    max_size=8,
)


@settings(max_examples=3)
@example([("others arrive", "ERROR"), ("changed by a task", "DEBUG"), ("nothing", None)])
@example([("file", 1), ("folder", "a"), ("file", 2), ("folder", "b"), ("file", 3)])
@example([("variable", 1), ("variable", 2)])
@given(outside)
def test_a_task_is_given_the_settings_that_it_would_build(changes: list[tuple[str, Any]]) -> None:
    """A task run has the settings sent to it, and the rest from where it runs, as they are now."""
    with (
        ExitStack() as stack,
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as folder,
    ):
        for name in "ab":
            (Path(folder) / name).mkdir()
        patch.chdir(folder)
        sent = STOCK(current())
        stack.enter_context(saved_work())
        for change, value in changes:
            if change == "others arrive":
                sent["settings"]["logging"] = {"level": value}
            elif change == "changed by a task":
                SettingsContext(**sent).settings.logging.level = value
            elif change == "variable":
                patch.setenv("PREFECT_TASKS_DEFAULT_RETRIES", str(value))
            elif change == "file":
                Path("prefect.toml").write_text(f"[flows]\ndefault_retries = {value}\n")
            elif change == "folder":
                patch.chdir(Path(folder) / value)
            built = SettingsContext(**sent)
            stock = SettingsContext(profile=built.profile, settings=Settings(**sent["settings"]))
            assert built == stock
            assert built.settings.model_fields_set == stock.settings.model_fields_set


def test_equal_settings_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Task runs with the same settings don't build them again, and have their own all the same."""
    built = []
    stock = Settings.__init__

    def build(*given: Any, **named: Any) -> None:
        built.append(named)
        stock(*given, **named)

    monkeypatch.setattr(Settings, "__init__", build)
    # A test server that is in use shares work, too.
    monkeypatch.setattr(SettingsContext, "__init__", STOCK_INIT)
    sent = STOCK(current())
    with saved_work():
        one, two = SettingsContext(**sent), SettingsContext(**sent)
    assert len(built) == 1
    assert one == two
    assert one.settings.logging is not two.settings.logging
    SettingsContext(**sent)
    assert len(built) == 2


def test_clients_read_certificates_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clients of one process read the trusted certificates at most once."""
    read: list[object] = []
    stock = ssl.create_default_context

    def create(*given: Any, **named: Any) -> ssl.SSLContext:
        read.append(named)
        return stock(*given, **named)

    monkeypatch.setattr(ssl, "create_default_context", create)
    with saved_work():
        for _ in range(2):
            SyncPrefectClient("http://127.0.0.1/api")
    # None if an earlier test, or the process that this one was forked from, has.
    assert len(read) <= 1
