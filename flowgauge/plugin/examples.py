# SPDX-License-Identifier: Apache-2.0
"""The plugin's fixtures in tests with `@given`: each example begins with fresh ones."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Generator
from typing import Any

import pytest

_SETTINGS = "_hypothesis_internal_use_settings"


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Let Hypothesis accept the plugin's fixtures, although it fails on those of functions.

    Its reason is that they are not reset between examples. These are, or hold nothing.
    """
    if not (isinstance(item, pytest.Function) and _is_given(item)):
        return (yield)
    named = set(inspect.signature(item.function).parameters) & set(item.funcargs)
    of_function = sorted(name for name in named if _is_of_function(item, name))
    others = [name for name in of_function if not _is_ours(item, name)]
    if of_function and not others:
        _accept_fixtures(item)
    try:
        return (yield)
    except Exception as error:
        if type(error).__name__ == "FailedHealthCheck" and len(others) < len(of_function):
            error.add_note(f"Flowgauge's fixtures are reset; this is about {', '.join(others)}.")
        raise


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Reset the plugin's fixtures before each example."""
    fixtures = [value for value in pyfuncitem.funcargs.values() if hasattr(value, "begin_example")]
    if not (fixtures and _is_given(pyfuncitem)):
        return (yield)
    given: Any = pyfuncitem.obj.hypothesis
    test = given.inner_test

    @functools.wraps(test)
    def with_fresh_fixtures(*args: Any, **kwargs: Any) -> object:
        for fixture in fixtures:
            fixture.begin_example()
        return test(*args, **kwargs)

    given.inner_test = with_fresh_fixtures
    try:
        return (yield)
    finally:
        given.inner_test = test


def _is_given(item: pytest.Function) -> bool:
    return bool(getattr(item.obj, "is_hypothesis_test", False)) and hasattr(item.obj, "hypothesis")


def _definition(item: pytest.Function, name: str) -> pytest.FixtureDef[Any] | None:
    known = item._fixtureinfo.name2fixturedefs.get(name)
    return known[-1] if known else None


def _is_of_function(item: pytest.Function, name: str) -> bool:
    definition = _definition(item, name)
    return definition is not None and definition.scope == "function"


def _is_ours(item: pytest.Function, name: str) -> bool:
    definition = _definition(item, name)
    return definition is not None and definition.func.__module__.startswith("flowgauge.plugin.")


def _accept_fixtures(item: pytest.Function) -> None:
    from hypothesis import HealthCheck, settings

    function = getattr(item.obj, "__func__", item.obj)
    if (before := getattr(function, _SETTINGS, None)) is not None:
        accepted = {*before.suppress_health_check, HealthCheck.function_scoped_fixture}
        setattr(function, _SETTINGS, settings(before, suppress_health_check=accepted))
