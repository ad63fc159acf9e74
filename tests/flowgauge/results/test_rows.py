# SPDX-License-Identifier: Apache-2.0
"""What is saved is what is loaded, and a broken file says what is wrong with it."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowgauge.results.rows import SCHEMA_VERSION, Results, ResultsError, Row

# A Hypothesis test uses one folder for all its examples: each writes over the last.
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)

ROW = Row(
    id="submit",
    group="features",
    runner="threads",
    params={"tasks": 50},
    figure="time per task run",
    unit="seconds",
    value=0.004,
    low=0.003,
    high=0.005,
    rounds=12,
    reference="ThreadPoolExecutor",
    ratio=820.0,
    ratio_low=800.0,
    ratio_high=850.0,
)
finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | finite | st.text()
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
ratios = st.none() | st.tuples(finite, finite, finite)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Draw a row, its numbers anything that is finite."""
    ratio, low, high = draw(ratios) or (None, None, None)
    words, numbers = st.text(), finite
    return Row(
        id=draw(words),
        group=draw(words),
        runner=draw(st.none() | words),
        params=draw(st.dictionaries(words, scalars, max_size=3)),
        figure=draw(words),
        unit=draw(words),
        value=draw(numbers),
        low=draw(numbers),
        high=draw(numbers),
        rounds=draw(st.integers(0, 10**6)),
        reference=draw(st.none() | words),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
    )


def document(**changes: Any) -> dict[str, Any]:
    """Return a results file with one row, some of the row's values changed."""
    row = {field.name: getattr(ROW, field.name) for field in fields(ROW)}
    return {"schema_version": SCHEMA_VERSION, "fingerprint": {}, "rows": [row | changes]}


def complaint(tmp_path: Path, content: object) -> str:
    """Load a file with this content and return what is said of it."""
    path = tmp_path / "results.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ResultsError) as raised:
        Results.load(path)
    return str(raised.value)


@one_folder
@given(
    fingerprint=st.dictionaries(st.text(), json_values, max_size=3),
    found=st.lists(rows(), max_size=3),
)
def test_round_trip(tmp_path: Path, fingerprint: dict[str, Any], found: list[Row]) -> None:
    """Results come back from their file as they went in."""
    results = Results(fingerprint, tuple(found))
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results


@one_folder
@given(content=st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_other_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    """Whatever a file holds that is no results file, one line is said and no traceback shown."""
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ResultsError) as raised:
        Results.load(path)
    assert len(str(raised.value).splitlines()) == 1


@one_folder
@given(key=st.sampled_from([field.name for field in fields(Row)]), value=json_values)
def test_a_wrong_value_loads_or_is_named(tmp_path: Path, key: str, value: object) -> None:
    """A value of the wrong type is named with its key and its row, and any other is kept."""
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document(**{key: value})))
    try:
        found, said = getattr(Results.load(path).rows[0], key), ""
    except ResultsError as error:
        found, said = value, str(error)
    assert found == value
    assert not said or (f'"{key}" in row 1' in said or "ratio without its interval" in said)


@pytest.mark.parametrize("key", [f.name for f in fields(Row) if f.default is MISSING])
def test_missing_key(tmp_path: Path, key: str) -> None:
    """A row without one of its keys is pointed at by its number, counted from 1."""
    broken = document()
    broken["rows"].append({k: v for k, v in broken["rows"][0].items() if k != key})
    assert complaint(tmp_path, broken) == f'results.json has no "{key}" in row 2'


def test_a_file_from_before_a_key_was_there(tmp_path: Path) -> None:
    """Results of an earlier release, whose rows have no spread, are read."""
    older = document()
    del older["rows"][0]["spread"]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(older))
    (row,) = Results.load(path).rows
    assert row.spread is None


@pytest.mark.parametrize("key", ["schema_version", "fingerprint", "rows"])
def test_missing_part(tmp_path: Path, key: str) -> None:
    """A file without one of its three parts says which."""
    broken = document()
    del broken[key]
    assert complaint(tmp_path, broken) == f'results.json has no "{key}" at the top'


def test_newer_schema(tmp_path: Path) -> None:
    """A newer file is told apart from a broken one, before anything else in it is looked at."""
    said = complaint(tmp_path, {"schema_version": SCHEMA_VERSION + 1, "rows": "renamed"})
    assert said == (
        f"results.json has schema {SCHEMA_VERSION + 1}, "
        f"this flowgauge reads up to {SCHEMA_VERSION}: upgrade flowgauge"
    )


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
def test_numbers_that_are_not_finite(tmp_path: Path, number: str) -> None:
    """NaN and what is too large to be a number are refused."""
    text = json.dumps(document()).replace('"value": 0.004', f'"value": {number}')
    assert "measure again" in complaint(tmp_path, text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": 1.5}, 'results.json has a number as "rounds" in row 1, not a whole number'),
        ({"value": True}, 'results.json has true or false as "value" in row 1, not a number'),
        ({"id": None}, 'results.json has null as "id" in row 1, not a string'),
        ({"params": []}, 'results.json has a list as "params" in row 1, not an object'),
    ],
)
def test_wrong_type(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    """A value of the wrong type is named, with what should stand there."""
    assert complaint(tmp_path, document(**changes)) == said


def test_ratio_needs_its_interval(tmp_path: Path) -> None:
    """A ratio without an interval can be given no verdict, so it is refused."""
    assert "all three" in complaint(tmp_path, document(ratio_low=None))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000])
def test_not_json(tmp_path: Path, text: str) -> None:
    """Text that no strict JSON reader takes is one line, however it is broken."""
    assert complaint(tmp_path, text).startswith("results.json ")


def test_half_a_character(tmp_path: Path) -> None:
    """Text that could not be written again is refused when it is read."""
    assert "half a character" in complaint(tmp_path, document(id="\ud800"))


def test_no_file(tmp_path: Path) -> None:
    """A file that isn't there is named with its path, a folder too."""
    for path in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(ResultsError, match="cannot be read") as raised:
            Results.load(path)
        assert str(path) in str(raised.value)


def test_nan_is_not_saved(tmp_path: Path) -> None:
    """A figure that is no number is refused before the file is touched."""
    path = tmp_path / "results.json"
    with pytest.raises(ResultsError, match="not finite"):
        Results({}, (replace(ROW, value=math.nan),)).save(path)
    assert not path.exists()
