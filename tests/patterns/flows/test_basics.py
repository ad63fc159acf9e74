# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/flows/basics.py`."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, get_client, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.exceptions import (
    MissingContextError,
    ParameterBindError,
    ParameterTypeError,
    PrefectHTTPStatusError,
)
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import ValidationError

from patterns.flows.basics import Order, ship, ship_async

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "flows/basics"


def state_of(subflow: Any, *args: Any, **kwargs: Any) -> State[Any]:
    """Return the final state of a sync flow."""
    state = subflow(*args, return_state=True, **kwargs)
    assert isinstance(state, State)
    return state


@pytest.mark.guarantee(NAME, "coerced")
@settings(max_examples=4)
@given(
    number=st.integers(),
    ratio=st.floats(allow_nan=False),
    numbers=st.lists(st.integers(), max_size=3),
    pieces=st.integers(1),
)
def test_parameters_are_converted(
    number: int, ratio: float, numbers: list[int], pieces: int
) -> None:
    """Parameters arrive as the types of their hints, converted where Pydantic can do so."""

    @flow
    def receive(
        number: int, ratio: float, numbers: list[int], order: Order
    ) -> tuple[int, float, list[int], Order]:
        return number, ratio, numbers, order

    given: Any = (
        str(number),
        repr(ratio),
        [str(each) for each in numbers],
        {"article": "lamp", "pieces": str(pieces)},
    )
    expected = (number, ratio, numbers, Order(article="lamp", pieces=pieces))
    assert receive(*given) == expected


@pytest.mark.guarantee(NAME, "refused")
@settings(max_examples=4)
@given(pieces=st.integers(max_value=0) | st.text("xyz"))
def test_a_wrong_parameter_is_refused(pieces: object) -> None:
    """If a parameter can't be converted, the run is Failed before its body begins."""
    began = []

    @flow
    def receive(order: Order) -> None:
        began.append(order)

    wrong: Any = {"article": "lamp", "pieces": pieces}
    state = state_of(receive, wrong)
    assert state.is_failed()
    assert "order.pieces" in str(state.message)
    assert began == []


@pytest.mark.guarantee(NAME, "refused")
def test_a_wrong_parameter_raises() -> None:
    """A parameter that can't be converted raises ParameterTypeError."""
    wrong: Any = {"article": "lamp", "pieces": "none"}
    with pytest.raises(ParameterTypeError, match=r"order\.pieces"):
        ship(wrong)


@pytest.mark.guarantee(NAME, "refused")
@pytest.mark.parametrize("runs", [ship, ship_async])
def test_an_unknown_field_is_refused(runs: Any) -> None:
    """A misspelt field fails the run, instead of being ignored in favour of the default."""
    state = runs({"article": "lamp", "peices": 3}, return_state=True)
    state = asyncio.run(state) if asyncio.iscoroutine(state) else state
    assert state.is_failed()
    assert "peices" in state.message


@pytest.mark.guarantee(NAME, "coerced")
def test_a_checked_order_cannot_be_changed() -> None:
    """An order is frozen: it can't be changed into one that would be refused."""
    order: Any = Order(article="lamp")
    with pytest.raises(ValidationError, match="frozen"):
        order.pieces -= 5
    assert ship(order) == "1 x lamp shipped to Lyon"


@pytest.mark.fact(NAME, "misfit")
@pytest.mark.parametrize("parameters", [{}, {"order": Order(article="lamp"), "town": "Lyon"}])
def test_a_missing_or_unknown_parameter_raises_without_a_run(parameters: dict[str, Any]) -> None:
    """A missing or unknown parameter raises ParameterBindError, and no run is recorded."""
    named = ship.with_options(name=f"ship with {len(parameters)}")
    with pytest.raises(ParameterBindError):
        named(return_state=True, **parameters)
    with get_client(sync_client=True) as client, pytest.raises(PrefectHTTPStatusError, match="404"):
        client.read_flow_by_name(named.name)


@pytest.mark.fact(NAME, "unchecked")
@settings(max_examples=3)
@given(given=st.none() | st.text() | st.lists(st.booleans(), max_size=3))
def test_checks_can_be_switched_off(given: Any) -> None:
    """With `validate_parameters=False` parameters arrive as they were given."""

    @flow(validate_parameters=False)
    def receive(order: Order) -> list[object]:
        return [order]

    assert receive(given)[0] is given


@pytest.mark.guarantee(NAME, "name")
def test_a_run_is_named_by_its_template() -> None:
    """A run is named by its template, filled in with the converted parameters."""

    @flow(flow_run_name=ship.flow_run_name)
    def receive(order: Order, city: str) -> tuple[Any, Any]:
        return flow_run.name, flow_run.id

    order: Any = {"article": "lamp", "pieces": "03"}
    name, run_id = receive(order, "Lyon")
    assert name == "ship 3 x lamp to Lyon"
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(run_id)).name == name


@pytest.mark.fact(NAME, "result")
def test_a_flow_returns_and_raises_like_its_body() -> None:
    """A flow returns what its body returns and raises what it raises."""

    @flow
    def half(number: int) -> int:
        if number % 2:
            raise ArithmeticError("odd")
        return number // 2

    assert half(4) == 2
    with pytest.raises(ArithmeticError, match="odd"):
        half(3)


@pytest.mark.fact(NAME, "result")
def test_returned_states_and_futures_are_converted() -> None:
    """If the body returns a state, the flow returns its data; if a future, the task's state."""

    @task
    def half(number: int) -> int:
        return number // 2

    @flow
    def halves(as_state: bool) -> Any:
        return Completed(data=2) if as_state else half.submit(4)

    assert halves(as_state=True) == 2
    state = halves(as_state=False)
    assert isinstance(state, State)
    assert state.result() == 2


@pytest.mark.fact(NAME, "result")
def test_a_state_is_returned_on_request() -> None:
    """With `return_state=True` a flow returns the final state, and does not raise the error."""

    @flow
    def half(number: int) -> int:
        if number % 2:
            raise ArithmeticError("odd")
        return number // 2

    completed, failed = state_of(half, 4), state_of(half, 3)
    assert completed.is_completed()
    assert completed.result() == 2
    assert failed.is_failed()
    assert isinstance(failed.result(raise_on_failure=False), ArithmeticError)


@pytest.mark.guarantee(NAME, "twins")
@settings(max_examples=2)
@given(article=st.text("abc", max_size=5), pieces=st.integers(-1, 3), city=st.text("xyz"))
@example(article="lamp", pieces=2, city="Porto")
@example(article="lamp", pieces=0, city="Porto")
def test_sync_and_async_flows_end_the_same_way(article: str, pieces: int, city: str) -> None:
    """A sync and an async flow with the same body end the same way."""
    order: Any = {"article": article, "pieces": str(pieces)}
    sync: State[Any] = state_of(ship, order, city)

    async def end_of_twin() -> Any:
        twin: Any = ship_async(order, city, return_state=True)
        return await twin

    twin = asyncio.run(end_of_twin())
    assert (sync.type, sync.message) == (twin.type, twin.message)
    if sync.is_completed():
        assert sync.result() == twin.result()


@pytest.mark.fact(NAME, "once")
@pytest.mark.parametrize(("options", "runs"), [({}, 1), ({"retries": 1}, 2)])
def test_a_failed_flow_is_not_run_again(options: dict[str, Any], runs: int) -> None:
    """A flow that fails is not run again unless it has `retries`."""
    began = []

    @flow(**options)
    def fail() -> None:
        began.append(flow_run.run_count)
        raise ConnectionError

    assert state_of(fail).is_failed()
    assert len(began) == runs


@pytest.mark.guarantee(NAME, "log")
def test_log_lines_carry_their_run() -> None:
    """Lines written with `get_run_logger` carry the id and the name of the run."""
    lines: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record)

    keep = Keep()
    logger = logging.getLogger("prefect.flow_runs")
    level = logger.level
    logger.addHandler(keep)
    logger.setLevel(logging.INFO)
    try:
        ship(Order(article="lamp"))
    finally:
        logger.removeHandler(keep)
        logger.setLevel(level)
    (line,) = [line for line in lines if line.getMessage() == "packing lamp"]
    assert line.__dict__["flow_run_name"] == "ship 1 x lamp to Lyon"
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(line.__dict__["flow_run_id"]))
    assert run.name == "ship 1 x lamp to Lyon"


@pytest.mark.fact(NAME, "logger")
def test_there_is_no_run_logger_outside_of_a_run() -> None:
    """Outside a run `get_run_logger` raises MissingContextError."""
    with pytest.raises(MissingContextError):
        get_run_logger()


@pytest.mark.fact(NAME, "plain")
def test_fn_is_the_plain_function() -> None:
    """`.fn` is the plain function: nothing is checked and no run is recorded."""

    @flow
    def receive(order: Order) -> tuple[object, object]:
        return order, flow_run.id

    unchecked: Any = "a lamp"
    assert receive.fn(unchecked) == ("a lamp", None)
    checked, run_id = receive(Order(article="lamp"))
    assert isinstance(checked, Order)
    assert run_id is not None


@pytest.mark.fact(NAME, "plain")
def test_an_order_is_validated_without_prefect_too() -> None:
    """An order that a flow would refuse is also refused when it is created by hand."""
    with pytest.raises(ValidationError):
        Order(article="lamp", pieces=0)
