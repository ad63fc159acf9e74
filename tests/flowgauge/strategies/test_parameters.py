# SPDX-License-Identifier: Apache-2.0
"""Parameters that are drawn from a signature."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import inspect
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional

import annotated_types
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.futures import PrefectFuture
from pydantic import BaseModel, Field, RootModel, StringConstraints, field_validator
from typing_extensions import TypedDict

from flowgauge.strategies import parameters


class Colour(enum.Enum):
    """Colours."""

    RED = "r"
    BLUE = "b"


class Article(BaseModel):
    """A model with constraints, an alias, and itself inside."""

    model_config = pydantic.ConfigDict(frozen=True)

    name: str = Field(min_length=1, max_length=5)
    price: Annotated[float, Field(gt=0, lt=100)]
    code: str = Field(alias="articleCode", pattern=r"^[A-Z]{2}\d$")
    pieces: int = Field(default=1, ge=1, multiple_of=2)
    parts: list[Article] = []

    @field_validator("name")
    @classmethod
    def not_blank(cls, name: str) -> str:
        """Refuse blanks."""
        if not name.strip():
            raise ValueError("blank")
        return name


class Even(RootModel[int]):
    """A model of one value."""

    @field_validator("root")
    @classmethod
    def even(cls, root: int) -> int:
        """Refuse odd numbers."""
        if root % 2:
            raise ValueError("odd")
        return root


@dataclasses.dataclass
class Order:
    """A dataclass."""

    article: Article
    day: datetime.date
    pieces: int = 3

    def __post_init__(self) -> None:
        if self.pieces < 0:
            raise ValueError("negative")


@pydantic.dataclasses.dataclass
class Checked:
    """A dataclass of pydantic."""

    share: float = Field(ge=0, le=1)


class Point(NamedTuple):
    """A named tuple."""

    x: int
    y: int


class Options(TypedDict, total=False):
    """A typed dict."""

    quick: bool
    depth: Annotated[int, Field(ge=0)]


Kilos = NewType("Kilos", float)
Name = Annotated[str, StringConstraints(min_length=2, max_length=4)]

TYPES: dict[str, Any] = {
    "number": int,
    "positive": Annotated[int, Field(gt=0)],
    "small": Annotated[int, annotated_types.Interval(ge=-1, lt=2)],
    "tens": Annotated[int, Field(ge=5, le=95, multiple_of=10)],
    "share": Annotated[float, Field(ge=0, lt=1)],
    "plain": float,
    "flag": bool,
    "text": str,
    "name": Name,
    "names": Annotated[list[Name], Field(min_length=1, max_length=3)],
    "literal": Literal["a", 1, None],
    "colour": Colour,
    "perhaps": Optional[Annotated[int, Field(gt=0)]],  # noqa: UP045 (the older way)
    "either": int | str,
    "limited_either": Annotated[int | None, Field(ge=7)],
    "article": Article,
    "articles": dict[Colour, list[Article]],
    "even": Even,
    "order": Order,
    "checked": Checked,
    "point": Point,
    "options": Options,
    "kilos": Kilos,
    "day": datetime.date,
    "later": Annotated[datetime.date, Field(gt=datetime.date(2030, 1, 1))],
    "moment": datetime.datetime,
    "aware": pydantic.AwareDatetime,
    "recent": Annotated[
        datetime.datetime, Field(ge=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    ],
    "past": pydantic.PastDate,
    "span": Annotated[datetime.timedelta, Field(ge=datetime.timedelta(0))],
    "path": Path,
    "cents": Annotated[decimal.Decimal, Field(ge=0, decimal_places=2, max_digits=6)],
    "id": uuid.UUID,
    "pair": tuple[int, str],
    "many": tuple[int, ...],
    "ids": set[int],
    "frozen": frozenset[Colour],
    "sequence": Sequence[int],
    "mapping": Mapping[str, float],
    "values": dict[str, Any],
    "bare": list,
    "own": Annotated[int, st.sampled_from([3, 4])],
    "prime": Annotated[int, annotated_types.Predicate(lambda n: n % 3 == 0)],
    "secret": pydantic.SecretStr,
    "bytes": Annotated[bytes, Field(max_length=3)],
}


def everything(**values: Any) -> None:
    """Have a parameter of each type."""


everything.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
     for name, kind in TYPES.items()]
)  # fmt: skip


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(drawn=parameters(everything))
def test_what_is_drawn_is_accepted_and_arrives_unchanged(drawn: dict[str, Any]) -> None:
    """Prefect's validation accepts what is drawn, and passes on an equal value of the same type."""
    received = flow(everything).validate_parameters(drawn)
    assert received.keys() == TYPES.keys()
    for name, value in drawn.items():
        assert type(received[name]) is type(value), name
        # NaN is not equal to itself; of sets, only the representations are in another order.
        assert received[name] == value or repr(received[name]) == repr(value), name


def test_all_of_a_type_is_drawn() -> None:
    """Nothing of a type is left out: each of these values is found, however nested."""

    @flow
    def ship(
        article: Article, colour: Colour | None, count: Annotated[int, Field(gt=3)] = 9
    ) -> None:
        """Ship."""

    wanted: dict[str, Callable[[dict[str, Any]], bool]] = {
        "a default is left out": lambda given: "count" not in given,
        "the least": lambda given: given.get("count") == 4,
        "none": lambda given: given["colour"] is None,
        "the last member": lambda given: given["colour"] is Colour.BLUE,
        "a default of a model": lambda given: given["article"].pieces == 1,
        "a part in a part": lambda given: any(given["article"].parts),
        "a price": lambda given: given["article"].price > 50,
    }
    drawn: list[dict[str, Any]] = []
    settings(max_examples=200, suppress_health_check=list(HealthCheck))(
        given(given=parameters(ship))(lambda given: drawn.append(given))
    )()
    for name, condition in wanted.items():
        assert any(map(condition, drawn)), name


@given(given=parameters(lambda rows, *, label: None, rows=st.integers(1, 9), label=st.just("x")))
def test_a_strategy_is_used_instead(given: dict[str, Any]) -> None:
    """A strategy by name is used instead of the annotation, of which there may be none."""
    assert given["label"] == "x"
    assert 1 <= given["rows"] <= 9


@task
def half(number: int, *rest: int, factor: Any = 2, **others: str) -> float:
    """Return a half."""
    return float(number / factor)


@given(given=parameters(half))
def test_tasks_have_parameters_too(given: dict[str, Any]) -> None:
    """Those of a task are drawn; a default without a type, `*args` and `**kwargs` are left out."""
    assert list(given) == ["number"]
    assert half.fn(**given) == given["number"] / 2


@settings(max_examples=2)
@given(given=parameters(half, number=st.integers(0, 9), colour=st.just("red")))
def test_a_flow_is_called_with_them(prefect_server: str, given: dict[str, Any]) -> None:
    """A flow runs with what is drawn; one with `**kwargs` takes a strategy of any name."""

    @flow
    def run(**given: Any) -> Any:
        return half(**given)

    assert run(**given) == given["number"] / 2


def no_hint(rows, many: int = 1): ...  # type: ignore[no-untyped-def]  # noqa: D103


def anything(rows: Any) -> None: ...  # noqa: D103


def future(rows: PrefectFuture[int]) -> None: ...  # noqa: D103


def callback(rows: Callable[[int], int]) -> None: ...  # noqa: D103


def unknown(rows: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: D103, F821


def by_position(rows: int, /) -> None: ...  # noqa: D103


class Holder(BaseModel):
    """A model with a part that can't be drawn."""

    callback: Callable[[], None]


def nested(rows: list[Holder]) -> None: ...  # noqa: D103


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (no_hint, "its annotation does not say what it takes"),
        (anything, "its annotation does not say what it takes"),
        (future, "PrefectFuture[int] can't be made up"),
        (callback, "Callable[[int], int] can't be made up"),
        (unknown, "'Missing' can't be evaluated (name 'Missing' is not defined)"),
        (nested, "its callback: Callable[[], None] can't be made up"),
    ],
)
def test_what_can_not_be_drawn_is_told(function: Callable[..., Any], why: str) -> None:
    """What can't be drawn is one line: the parameter, why, and how to give a strategy for it."""
    with pytest.raises(pytest.fail.Exception) as failed:
        parameters(function)
    assert failed.value.pytrace is False
    name = function.__name__
    assert str(failed.value) == (
        f"parameters({name}): rows can't be drawn: {why};"
        f" give a strategy for it: parameters({name}, rows=st.…)"
    )


def test_a_validator_that_accepts_nothing_is_told() -> None:
    """If no value is accepted, the line has pydantic's reason."""

    def never(number: int) -> int:
        raise ValueError("closed today")

    def visit(day: int) -> None: ...

    visit.__annotations__["day"] = Annotated[int, pydantic.AfterValidator(never)]

    @settings(suppress_health_check=list(HealthCheck))
    @given(given=parameters(visit))
    def draw(given: dict[str, Any]) -> None: ...

    with pytest.raises(
        pytest.fail.Exception,
        match=r"^parameters\(visit\): day can't be drawn: none of 60 values was accepted"
        r" \(Value error, closed today\); give a strategy for it: parameters\(visit, day=st\.…\)",
    ):
        draw()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: parameters(anything, row=st.none()),
            "parameters(anything): there is no parameter 'row'; those there are: rows",
        ),
        (
            lambda: parameters(anything, rows=3),  # type: ignore[arg-type]
            "parameters(anything): rows=3 is no strategy; give st.just(3)",
        ),
        (
            lambda: parameters(by_position),
            "parameters(by_position): rows can't be given by name; make it no positional-only one",
        ),
    ],
)
def test_a_mistake_is_one_line(call: Callable[[], Any], says: str) -> None:
    """A mistake in the call is one line."""
    with pytest.raises(pytest.fail.Exception) as failed:
        call()
    assert str(failed.value) == says


def test_without_hypothesis_the_extra_is_named() -> None:
    """Without Hypothesis, importing the module is an error of one line that names the extra."""
    hidden = (
        "import importlib.util as u; find = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'hypothesis' else find(name, *a);"
        "import flowgauge.strategies"
    )
    ran = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True)
    assert ran.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: flowgauge.strategies needs Hypothesis:"
        ' pip install "flowgauge[hypothesis]"'
    )
