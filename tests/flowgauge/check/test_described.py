# SPDX-License-Identifier: Apache-2.0
"""Flows and deployments of a module as plain data."""

from __future__ import annotations

import datetime
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prefect import flow
from prefect.exceptions import ParameterTypeError
from pydantic import BaseModel, Field

from flowgauge.check.described import default_faults, describe
from flowgauge.check.loaded import Loaded, LoadedDeployment, LoadedSchedule


class Order(BaseModel):
    """A model with a rule."""

    rows: int = Field(gt=0)


TYPES = (
    int,
    float,
    str,
    bool,
    list[int],
    dict[str, int],
    int | None,
    Literal["a", 1],
    datetime.date,
    Order,
    Path,
    types.SimpleNamespace,
    Any,
)
SCALARS = st.none() | st.integers(-2, 2) | st.just("1") | st.just("a") | st.just(1.5)
DEFAULTS = (
    SCALARS
    | st.lists(SCALARS, max_size=2)
    | st.dictionaries(st.just("rows"), SCALARS)
    | st.just(datetime.date(2024, 1, 1))
    | st.just(Order(rows=1))
)


@example(Order, {"rows": 0})
@example(int, None)
@given(st.sampled_from(TYPES), DEFAULTS)
def test_a_default_is_told_if_a_call_would_refuse_it(kind: Any, default: Any) -> None:
    """For any type and default, it is told if and only if calling the flow with it fails."""

    def etl(x: Any = default) -> None: ...

    etl.__annotations__["x"] = kind
    made = flow(etl)
    try:
        made.validate_parameters({"x": default})
        is_valid = True
    except ParameterTypeError:
        is_valid = False
    assert (default_faults(made) == []) is is_valid
    assert default_faults(made.with_options(validate_parameters=False)) == []


def test_a_default_of_none_says_how_to_annotate_it() -> None:
    """The most common one has its own advice."""

    @flow
    def etl(x: int = None, y: list[int] = ["a"]) -> None: ...  # type: ignore[assignment, list-item] # noqa: B006, RUF013

    assert default_faults(etl) == [
        (
            "the default None of 'x' is no int (Input should be a valid integer)",
            "annotate it `int | None`",
        ),
        (
            "the default ['a'] of 'y' is no list[int] (Input should be a valid integer, unable to"
            " parse string as an integer)",
            "change one of the two",
        ),
    ]


def test_what_pydantic_cannot_tell_is_left_alone() -> None:
    """A type that only type checkers know, and a rule in the default, are no reason to complain."""

    @flow
    def unknown(x: Unknown = 1) -> None: ...  # type: ignore[name-defined] # noqa: F821

    @flow
    def ruled(x: int = Field(3, gt=0)) -> None: ...

    assert default_faults(unknown) == default_faults(ruled) == []


MODULE = """
from prefect import flow

def made(name):
    @flow(name=name)
    def inner(): ...
    return inner

@flow
def etl(day: str, **more): ...

again = etl
renamed = etl.with_options(name="renamed")
one, two = made("one"), made("two")
in_a_list = [made("listed")]
by_name = {"x": made("by name")}

class Shop:
    @flow(name="static")
    @staticmethod
    def refresh(a: int): ...

    @staticmethod
    @flow(name="wrapped")
    def other(): ...

class Odd:
    @property
    def __class__(self):
        raise RuntimeError("nobody may ask")

odd = Odd()

nightly = etl.to_deployment(
    "nightly", cron="0 6 * * *", parameters={"day": "x"}
)
several = [
    etl.to_deployment("paused", interval=60, paused=True, enforce_parameter_schema=False),
]
"""


def line(text: str) -> int:
    """Return the line of the module where a text begins."""
    return MODULE[: MODULE.index(text)].count("\n") + 1


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loaded, Path]]:
    """Yield what is known about a module, and its file."""
    file = tmp_path_factory.mktemp("module").resolve() / "somebodys_flows.py"
    file.write_text(MODULE)
    module = types.ModuleType("somebodys_flows")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    exec(compile(MODULE, file, "exec"), vars(module))
    objects = ("etl", "Shop.refresh", "Shop.gone", "made", "odd")
    yield describe(module, objects, file.parent), file
    del sys.modules[module.__name__]


def test_flows_are_found_wherever_a_module_keeps_them(described: tuple[Loaded, Path]) -> None:
    """Each flow is found once: at the top, in classes, in lists and mappings, under a new name."""
    loaded, file = described
    assert {flow.name: (flow.path, flow.line) for flow in loaded.flows} == {
        "etl": ("etl", line("@flow\ndef etl")),
        "renamed": ("renamed", line("@flow\ndef etl")),
        "one": ("one", line("@flow(name=name)")),
        "two": ("two", line("@flow(name=name)")),
        "listed": ("in_a_list[0]", line("@flow(name=name)")),
        "by name": ("by_name[0]", line("@flow(name=name)")),
        "static": ("Shop.refresh", line('@flow(name="static")')),
        "wrapped": ("Shop.other", line("@staticmethod\n    @flow")),
    }
    assert {flow.file for flow in loaded.flows} == {str(file)}
    (etl,) = (flow for flow in loaded.flows if flow.name == "etl")
    assert etl.takes_more
    assert etl.schema["required"] == ["day"]


def test_flows_of_other_folders_are_left_out(described: tuple[Loaded, Path]) -> None:
    """A flow that was imported from an installed package is not the project's."""
    _, file = described
    module = sys.modules["somebodys_flows"]
    assert describe(module, (), file.parent / "elsewhere").flows == ()


def test_deployments_are_found_with_the_lines_of_their_variables(
    described: tuple[Loaded, Path],
) -> None:
    """A deployment has the line of its variable, and what a server would get."""
    assert described[0].deployments == (
        LoadedDeployment(
            line("nightly = "), "nightly", "etl", {"day": "x"}, (LoadedSchedule(True, {}),)
        ),
        LoadedDeployment(
            line("several = "), "paused", "etl", {}, (LoadedSchedule(False, {}),), enforce=False
        ),
    )


def test_objects_of_entrypoints_are_looked_up(described: tuple[Loaded, Path]) -> None:
    """An object is a flow, or another kind of thing, or missing."""
    found = dict(described[0].objects)
    kinds = {path: thing if isinstance(thing, str) else thing.name for path, thing in found.items()}
    assert kinds == {
        "etl": "etl",
        "Shop.refresh": "static",
        "Shop.gone": "",
        "made": "function",
        "odd": "Odd",
    }
