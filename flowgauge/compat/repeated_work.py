# SPDX-License-Identifier: Apache-2.0
"""What Prefect does anew for each flow run or task run, and need not in one process."""

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
    """Let flow runs and task runs of this process share what is the same for all of them.

    Returns:
        What ends that when it is closed.
    """
    from prefect.client import orchestration
    from prefect.context import SettingsContext

    stack = contextlib.ExitStack()
    # Each flow run's client would read whom it trusts, in 20 ms.
    once = functools.cache(ssl.create_default_context)
    shared = SimpleNamespace(**vars(ssl) | {"create_default_context": once})
    stack.enter_context(patch.object(orchestration, "ssl", shared))
    # Each task that is submitted to another process would write all settings, in 20 ms.
    written = _WrittenSettings(SettingsContext.serialize)
    stack.enter_context(
        patch.object(SettingsContext, "serialize", lambda *given, **named: written(*given, **named))
    )
    return stack


class _WrittenSettings:
    """Writes settings, and gives them again for as long as they are unchanged."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self._last: tuple[Any, Any] = (None, None)

    def __call__(self, context: BaseModel, *given: Any, **named: Any) -> Any:
        # They may be others, and can be changed in place.
        asked = (_set(context), given, named)
        last, text = self._last
        if last != asked:
            text = self._stock(context, *given, **named)
            self._last = (copy.deepcopy(asked), text)
        return text


def _set(model: BaseModel) -> dict[str, Any]:
    """Return what is set in a model and the models in it, and is no default."""
    return {
        name: _set(value) if isinstance(value, BaseModel) else value
        for name, value in vars(model).items()
        if isinstance(value, BaseModel) or name in model.model_fields_set
    }
