# SPDX-License-Identifier: Apache-2.0
"""What is saved is what is loaded, and a broken file is reported with what is wrong with it."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowgauge.results.interval import Interval
from flowgauge.results.rows import (
    SCHEMA_VERSION,
    Group,
    Memory,
    Outcome,
    Results,
    ResultsError,
    Row,
    Unit,
)
from flowgauge.results.timelines import Span, Timeline

# A Hypothesis test uses one folder for all its examples: each overwrites the file of the last.
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)

ROW = Row(
    id="submit",
    group=Group.FEATURES,
    runner="threads",
    params={"tasks": 50},
    figure="time per task run",
    unit=Unit.SECONDS,
    value=Interval(0.004, 0.003, 0.005),
    rounds=12,
    reference="ThreadPoolExecutor",
    ratio=Interval(820.0, 800.0, 850.0),
    relative_iqr=0.1,
)
finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | finite | words
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(words, inner), max_leaves=8
)
intervals = st.builds(Interval, finite, finite, finite)
rows = st.builds(
    Row,
    id=words,
    group=st.sampled_from(Group) | words,
    runner=st.none() | words,
    params=st.dictionaries(words, scalars, max_size=3),
    figure=words,
    unit=st.sampled_from(Unit) | words,
    value=intervals,
    rounds=st.integers(0, 10**6),
    reference=st.none() | words,
    ratio=st.none() | intervals,
    relative_iqr=st.none() | finite,
    outcome=st.sampled_from(Outcome),
    tried=st.none() | finite,
    memory=st.none() | st.builds(Memory, finite, st.none() | finite),
)
spans = st.builds(Span, words, st.integers(0, 9), finite, finite)
timelines = st.builds(Timeline, words, words, finite, st.lists(spans).map(tuple))


def document(**changes: Any) -> dict[str, Any]:
    """Return the content of a results file with one row, with some of its values changed."""
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": {},
        "rows": [asdict(ROW) | changes],
        "timelines": [],
    }


def complaint(tmp_path: Path, content: object) -> str:
    """Return the error message for a file with this content, without the path of its folder."""
    path = tmp_path / "results.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ResultsError) as raised:
        Results.load(path)
    said = str(raised.value)
    assert said.startswith(f"{path}")
    assert len(said.splitlines()) == 1
    return said.removeprefix(f"{tmp_path}/")


@one_folder
@given(
    fingerprint=st.dictionaries(words, json_values, max_size=3),
    found=st.lists(rows, max_size=3),
    drawn=st.lists(timelines, max_size=2),
    took=st.dictionaries(words, finite, max_size=2),
)
def test_round_trip(
    tmp_path: Path,
    fingerprint: dict[str, Any],
    found: list[Row],
    drawn: list[Timeline],
    took: dict[str, float],
) -> None:
    """Results loaded from a file equal those that were saved."""
    results = Results(fingerprint, tuple(found), tuple(drawn), took)
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results


@one_folder
@given(content=st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_other_file_is_reported_in_one_line(tmp_path: Path, content: bytes) -> None:
    """A file that is not a results file, whatever it holds, raises a one-line ResultsError."""
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ResultsError) as raised:
        Results.load(path)
    assert len(str(raised.value).splitlines()) == 1


@one_folder
@given(key=st.sampled_from([field.name for field in fields(Row)]), value=json_values)
def test_a_value_is_loaded_unchanged_or_reported(tmp_path: Path, key: str, value: object) -> None:
    """A value of the wrong type is reported with its row and key; any other is loaded unchanged."""
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document(**{key: value})))
    try:
        found, said = asdict(Results.load(path).rows[0])[key], ""
    except ResultsError as error:
        found, said = value, str(error)
    assert found == value
    assert not said or f"rows[0].{key}" in said


@pytest.mark.parametrize(
    "key", [f.name for f in fields(Row) if f.default is MISSING and f.name != "runner"]
)
def test_missing_key(tmp_path: Path, key: str) -> None:
    """A missing key is reported with the index of its row."""
    broken = document()
    broken["rows"].append({k: v for k, v in broken["rows"][0].items() if k != key})
    assert complaint(tmp_path, broken).startswith(f"results.json: rows[1].{key}: field required;")


def test_a_misspelt_key_is_named(tmp_path: Path) -> None:
    """An unknown key of a row is reported, because it would otherwise be lost."""
    assert "rows[0].ration: " in complaint(tmp_path, document(ration=None))


@pytest.mark.parametrize("key", ["fingerprint", "rows"])
def test_missing_part(tmp_path: Path, key: str) -> None:
    """A missing part of the file is reported by its name."""
    broken = document()
    del broken[key]
    assert complaint(tmp_path, broken).startswith(f"results.json: {key}: field required;")


@pytest.mark.parametrize("version", [None, "1", True, 1.0])
def test_a_file_without_a_schema_version_is_rejected(tmp_path: Path, version: object) -> None:
    """A JSON file whose schema version is not an integer is rejected as having none."""
    assert "has no schema_version" in complaint(tmp_path, {"schema_version": version})


def test_newer_schema(tmp_path: Path) -> None:
    """A file with a newer schema is reported as such, before anything else in it is checked."""
    said = complaint(tmp_path, {"schema_version": SCHEMA_VERSION + 1, "rows": "renamed"})
    assert f"has schema {SCHEMA_VERSION + 1}, this flowgauge reads up to {SCHEMA_VERSION}" in said
    assert "upgrade flowgauge" in said


FIRST_SCHEMA: dict[str, Any] = {
    "id": "submit",
    "group": "features",
    "runner": "threads",
    "params": {"tasks": 50},
    "figure": "time per task run",
    "unit": "seconds",
    "value": 0.004,
    "low": 0.003,
    "high": 0.005,
    "rounds": 12,
    "reference": "ThreadPoolExecutor",
    "ratio": 820.0,
    "ratio_low": 800.0,
    "ratio_high": 850.0,
    "spread": 0.1,
}


def of_first_schema(tmp_path: Path, **changes: Any) -> Row:
    """Return the only row of a file of the first schema, after loading it."""
    path = tmp_path / "results.json"
    row = {name: value for name, value in (FIRST_SCHEMA | changes).items() if value != "left out"}
    path.write_text(json.dumps({"schema_version": 1, "fingerprint": {}, "rows": [row]}))
    (found,) = Results.load(path).rows
    return found


def test_a_file_of_the_first_schema_is_read(tmp_path: Path) -> None:
    """Flat fields of the first schema are read as intervals, and two of its units as outcomes."""
    assert of_first_schema(tmp_path) == ROW
    unpaired = dict.fromkeys(("reference", "ratio", "ratio_low", "ratio_high"))
    alone = replace(ROW, reference=None, ratio=None)
    assert of_first_schema(tmp_path, **unpaired) == alone
    assert of_first_schema(tmp_path, spread="left out").relative_iqr is None
    for unit, outcome in (("efficiency", Outcome.NEVER), ("reached", Outcome.BEYOND)):
        row = of_first_schema(tmp_path, unit=unit)
        assert (row.outcome, row.unit) == (outcome, Unit.EFFICIENCY)


def test_a_file_of_the_second_schema_is_read(tmp_path: Path) -> None:
    """Rows from before memory was measured are read as rows whose memory is not known."""
    second = document() | {"schema_version": 2}
    del second["rows"][0]["memory"]
    (tmp_path / "results.json").write_text(json.dumps(second))
    assert Results.load(tmp_path / "results.json").rows == (ROW,)
    assert ROW.memory is None


@pytest.mark.parametrize("key", ["value", "low", "id", "ratio_low"])
def test_a_key_missing_from_the_first_schema_is_reported(tmp_path: Path, key: str) -> None:
    """A key missing from a file of the first schema is reported as a required field of its row."""
    with pytest.raises(ResultsError, match=r"rows\[0\]\.\w+(\.\w+)?: field required"):
        of_first_schema(tmp_path, **{key: "left out"})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
def test_numbers_that_are_not_finite(tmp_path: Path, number: str) -> None:
    """NaN, infinity and numbers too large for a float are rejected."""
    text = json.dumps(document()).replace('"median": 0.004', f'"median": {number}')
    assert number in text
    complaint(tmp_path, text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": 1.5}, "rows[0].rounds: input should be a valid integer, not 1.5"),
        ({"value": True}, "rows[0].value: input should be an object, not True"),
        ({"id": None}, "rows[0].id: input should be a valid string, not None"),
        ({"params": []}, "rows[0].params: input should be an object, not []"),
        ({"memory": {"candidate": 1}}, "rows[0].memory.reference: field required"),
        ({"outcome": "no"}, "rows[0].outcome: input should be 'found', 'longer than tried' or"),
    ],
)
def test_wrong_type(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    """A value of the wrong type is reported with its key and what is expected instead."""
    assert said in complaint(tmp_path, document(**changes))


def test_an_interval_needs_both_ends(tmp_path: Path) -> None:
    """A ratio without both ends of its interval is rejected, since it could get no verdict."""
    assert "ratio.high: field required" in complaint(
        tmp_path, document(ratio={"median": 1.0, "low": 0.9})
    )


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000])
def test_not_json(tmp_path: Path, text: str) -> None:
    """Text that cannot be parsed as JSON is reported in one line, however it is broken."""
    assert complaint(tmp_path, text).startswith("results.json ")


def test_a_lone_surrogate_is_rejected(tmp_path: Path) -> None:
    """A string that is not valid Unicode, and so could not be saved again, is rejected on load."""
    assert "a string that is not valid Unicode" in complaint(tmp_path, document(id="\ud800"))


def test_no_file(tmp_path: Path) -> None:
    """A missing file, or a folder in its place, is reported with its path."""
    for path in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(ResultsError, match="cannot be read") as raised:
            Results.load(path)
        assert str(path) in str(raised.value)


def test_nan_is_not_saved(tmp_path: Path) -> None:
    """A figure that is not a number is rejected before the file is created."""
    path = tmp_path / "results.json"
    with pytest.raises(ResultsError, match="not finite"):
        Results({}, (replace(ROW, value=Interval.exact(math.nan)),)).save(path)
    assert not path.exists()
