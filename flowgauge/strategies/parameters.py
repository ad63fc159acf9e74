# SPDX-License-Identifier: Apache-2.0
"""Parameters of a flow or a task, drawn from its signature."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.strategies import SearchStrategy
from prefect import Flow, Task
from pydantic import ConfigDict, PydanticUserError, ValidationError, create_model

from flowgauge.faults.checks import refuse
from flowgauge.strategies.limits import without_limits
from flowgauge.strategies.values import Undrawable, values

_REFUSALS = 60
"""After so many refused values and none that was accepted, no more are tried."""


def parameters(
    flow: Flow[..., Any] | Task[..., Any] | Callable[..., Any],
    /,
    **strategies: SearchStrategy[Any],
) -> SearchStrategy[dict[str, Any]]:
    """Draw the parameters of a flow or task, to call it with: `flow(**parameters)`.

    Each is drawn from its annotation, with the limits that pydantic knows (`Annotated`, `Field`,
    models, dataclasses). What is drawn has that type already, and Prefect's validation accepts it.
    A parameter with a default is sometimes left out, and always if its annotation says nothing.
    `*args` and `**kwargs` are left out.

    Args:
        flow: A flow, a task, or a function that will be one.
        **strategies: For a parameter of that name, what is drawn instead; it is always present,
            and may draw what the flow refuses.

    Returns:
        A strategy for dicts of arguments by name. A parameter that can't be drawn fails the test
        with one line.
    """
    function = flow.fn if isinstance(flow, Flow | Task) else flow
    call = f"parameters({getattr(function, '__name__', function)})"
    signature = inspect.signature(function)
    _check(call, signature, strategies)
    hints = _hints(call, function, signature, strategies)
    required: dict[str, SearchStrategy[Any]] = dict(strategies)
    optional: dict[str, SearchStrategy[Any]] = {}
    for name, parameter in signature.parameters.items():
        if name in strategies or parameter.kind in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            continue
        has_default = parameter.default is not inspect.Parameter.empty
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            if not has_default:
                refuse(f"{call}: {name} can't be given by name; make it no positional-only one")
            continue
        annotation = hints.get(name, Any)
        if has_default and without_limits(annotation) in (Any, object):
            continue
        try:
            drawn = _accepted(call, name, annotation)
        except Undrawable as error:
            _undrawable(call, name, str(error))
        (optional if has_default else required)[name] = drawn
    return st.fixed_dictionaries(required, optional=optional)


def _check(call: str, signature: inspect.Signature, strategies: Mapping[str, object]) -> None:
    """Fail the test if a strategy is none, or for a parameter that does not exist."""
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    for name, strategy in strategies.items():
        if name not in signature.parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
            listed = ", ".join(signature.parameters) or "none"
            refuse(f"{call}: there is no parameter {name!r}; those there are: {listed}")
        if not isinstance(strategy, SearchStrategy):
            refuse(f"{call}: {name}={strategy!r} is no strategy; give st.just({strategy!r})")


def _hints(
    call: str,
    function: Callable[..., Any],
    signature: inspect.Signature,
    strategies: Mapping[str, object],
) -> dict[str, Any]:
    """Return the annotations of a function; those that are strings are evaluated."""
    hints: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if name in strategies or parameter.annotation is inspect.Parameter.empty:
            continue
        # One by one: a name that is not defined matters only where no strategy is given.
        one: Any = type(name, (), {"__annotations__": {name: parameter.annotation}})
        scope = getattr(inspect.unwrap(function), "__globals__", {})
        try:
            hints[name] = typing.get_type_hints(one, scope, include_extras=True)[name]
        except NameError as error:
            _undrawable(call, name, f"{parameter.annotation!r} can't be evaluated ({error})")
    return hints


def _accepted(call: str, name: str, annotation: Any) -> SearchStrategy[Any]:
    """Return a strategy for those values of a parameter that pydantic accepts.

    Args:
        call: What the test called, for messages.
        name: The name of the parameter.
        annotation: Its annotation.

    Returns:
        The strategy.

    Raises:
        Undrawable: If the annotation says too little, or is for what can't be made up.
    """
    if without_limits(annotation) in (Any, object):
        raise Undrawable("its annotation does not say what it takes")
    strategy = values(annotation)
    # As Prefect does.
    config = ConfigDict(arbitrary_types_allowed=True)
    try:
        model = create_model("Parameter", __config__=config, value=(annotation, ...))
    except PydanticUserError as error:
        raise Undrawable(f"pydantic refuses its annotation ({error.message})") from None
    accepted, refused = 0, 0

    def accepts(value: Any) -> bool:
        nonlocal accepted, refused
        try:
            model(value=value)
        except ValidationError as error:
            refused += 1
            if not accepted and refused >= _REFUSALS:
                why = error.errors()[0]["msg"]
                _undrawable(call, name, f"none of {_REFUSALS} values was accepted ({why})")
            return False
        accepted += 1
        return True

    @st.composite
    def drawn(draw: st.DrawFn) -> Any:
        try:
            return draw(strategy)
        except HypothesisException:
            raise
        except Exception as error:
            _undrawable(call, name, f"making one up failed ({type(error).__name__}: {error})")

    return drawn().filter(accepts)


def _undrawable(call: str, name: str, why: str) -> NoReturn:
    given = f"{call[:-1]}, {name}=st.…)"
    refuse(
        f"{call}: {name} can't be drawn: {' '.join(why.split())}; give a strategy for it: {given}"
    )
