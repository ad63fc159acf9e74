# SPDX-License-Identifier: Apache-2.0
"""Work that Prefect repeats for each flow run or task run, done once per process instead."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import ssl
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from pydantic import BaseModel


@functools.cache
def _certificates(*args: Any, **kwargs: Any) -> ssl.SSLContext:
    return ssl.create_default_context(*args, **kwargs)


def saved_work() -> contextlib.ExitStack:
    """Make flow runs and task runs of this process share what is the same for all of them.

    Returns:
        A stack that ends the sharing when closed.
    """
    from prefect.client import orchestration
    from prefect.context import SettingsContext
    from prefect.settings import Settings

    stack = contextlib.ExitStack()
    # Each flow run's client would read the trusted certificates, which takes 20 ms.
    shared = SimpleNamespace(**vars(ssl) | {"create_default_context": _certificates})
    stack.enter_context(patch.object(orchestration, "ssl", shared))
    # Each task submitted to another process would serialize all settings, which takes 20 ms,
    serialize = _UntilSettingsChange(SettingsContext.serialize)
    stack.enter_context(
        patch.object(
            SettingsContext, "serialize", lambda *args, **kwargs: serialize(*args, **kwargs)
        )
    )
    # once more as environment variables, 45 ms,
    variables = _UntilSettingsChange(Settings.to_environment_variables)
    stack.enter_context(
        patch.object(
            Settings,
            "to_environment_variables",
            lambda *args, **kwargs: dict(variables(*args, **kwargs)),
        )
    )
    # and build them from that where it runs, 25 ms.
    stack.enter_context(
        patch.object(SettingsContext, "__init__", _with_built(SettingsContext.__init__))
    )
    return stack


class _UntilSettingsChange:
    """Calls a function of settings, and returns the same value again until they change."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self._last: tuple[Any, Any] = (None, None)

    def __call__(self, settings: BaseModel, *args: Any, **kwargs: Any) -> Any:
        # These may be different ones, or have been changed in place.
        key = (_set(settings), args, kwargs)
        last, value = self._last
        if last != key:
            value = self._stock(settings, *args, **kwargs)
            self._last = (copy.deepcopy(key), value)
        return value


def _set(model: BaseModel) -> dict[str, Any]:
    """Return what is set explicitly in a model and its nested models, without defaults."""
    return {
        name: _set(value) if isinstance(value, BaseModel) else value
        for name, value in vars(model).items()
        if isinstance(value, BaseModel) or name in model.model_fields_set
    }


def _with_built(stock: Any) -> Any:
    """Return a constructor of settings contexts that builds equal settings only once."""
    from prefect.settings import Settings

    last: tuple[Any, Any] = (None, None)

    def build(context: Any, **given: Any) -> None:
        nonlocal last
        sent = given.get("settings")
        if isinstance(sent, dict):
            key = (sent, surroundings())
            known, settings = last
            if known != key:
                settings = Settings(**sent)
                last = (copy.deepcopy(key), settings)
            # A task may change its settings.
            given["settings"] = copy.deepcopy(settings)
        stock(context, **given)

    return build


def surroundings() -> tuple[Any, ...]:
    """Return what settings are read from: variables, and the versions of files.

    Returns:
        A value that is equal as long as nothing changes.
    """
    variables = {name: text for name, text in os.environ.items() if name.startswith("PREFECT_")}
    files = ("prefect.toml", "pyproject.toml", variables.get("PREFECT_PROFILES_PATH", ""))
    return variables, tuple(map(_version, files))


def _version(file: str) -> tuple[int, ...] | None:
    """Return what changes when a file is written, or None without a file."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
