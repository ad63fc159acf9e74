# SPDX-License-Identifier: Apache-2.0
"""Work that Prefect repeats for each flow run or task run, done once per process instead."""

from __future__ import annotations

import contextlib
import copy
import functools
import ssl
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from pydantic import BaseModel


def saved_work() -> contextlib.ExitStack:
    """Make flow runs and task runs of this process share what is the same for all of them.

    Returns:
        A stack that ends the sharing when closed.
    """
    from prefect.client import orchestration
    from prefect.context import SettingsContext

    stack = contextlib.ExitStack()
    # Each flow run's client would read the trusted certificates, which takes 20 ms.
    once = functools.cache(ssl.create_default_context)
    shared = SimpleNamespace(**vars(ssl) | {"create_default_context": once})
    stack.enter_context(patch.object(orchestration, "ssl", shared))
    # Each task submitted to another process would serialize all settings, which takes 20 ms.
    serialize = _SerializedSettings(SettingsContext.serialize)
    stack.enter_context(
        patch.object(
            SettingsContext, "serialize", lambda *args, **kwargs: serialize(*args, **kwargs)
        )
    )
    return stack


class _SerializedSettings:
    """Serializes settings, and returns the same text again until they change."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self._last: tuple[Any, Any] = (None, None)

    def __call__(self, context: BaseModel, *args: Any, **kwargs: Any) -> Any:
        # The context may be a different one, or have been changed in place.
        key = (_set(context), args, kwargs)
        last, text = self._last
        if last != key:
            text = self._stock(context, *args, **kwargs)
            self._last = (copy.deepcopy(key), text)
        return text


def _set(model: BaseModel) -> dict[str, Any]:
    """Return what is set explicitly in a model and its nested models, without defaults."""
    return {
        name: _set(value) if isinstance(value, BaseModel) else value
        for name, value in vars(model).items()
        if isinstance(value, BaseModel) or name in model.model_fields_set
    }
