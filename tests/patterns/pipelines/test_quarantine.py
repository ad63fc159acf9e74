# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/pipelines/quarantine.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prefect import flow, task
from prefect.exceptions import ParameterTypeError
from prefect.task_runners import TaskRunner

from patterns.pipelines import quarantine
from patterns.pipelines.quarantine import BadDeliveryError, Order, Rejected, gate, import_orders

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "pipelines/quarantine"
GOOD = '{"id": "%s", "cents": 990, "currency": "EUR"}'


def deliver(folder: Path, *records: str | bytes) -> Path:
    """Write a delivery, with a record in each line."""
    file = folder / "monday.jsonl"
    raw = [each.encode() if isinstance(each, str) else each for each in records]
    file.write_bytes(b"".join(each + b"\n" for each in raw))
    return file


def published(folder: Path) -> list[str]:
    """Return the ids that are published."""
    lines = (folder / "published" / "monday.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line)["id"] for line in lines]


def set_aside(folder: Path) -> list[dict[str, Any]]:
    """Return the records in the quarantine."""
    lines = (folder / "quarantine" / "monday.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


BAD = {
    '{"id": "b", "cents": "free"}': "cents Input should be a valid integer",
    '{"id": "b"}': "cents Field required",
    '{"cents": 0}': "id Field required; cents Input should be greater than 0",
    "not json": "Invalid JSON",
    "": "Invalid JSON",
    '{"id": "b", "cents": 1, "currency": "ducats"}': "currency Input should be 'EUR' or 'USD'",
}


@pytest.mark.guarantee(NAME, "apart")
def test_bad_records_are_set_aside_and_all_others_published(
    task_runner: TaskRunner[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each bad record is in the quarantine with line, text and reason; the others are published."""
    monkeypatch.setattr(quarantine, "BATCH", 4)
    ids = [f"é{number}" for number in range(9)]
    good = [GOOD % id_ for id_ in ids]
    records = [*BAD, *good[:5], '{"id": "late"}', *good[5:]]
    delivery = deliver(tmp_path, *records)

    run = import_orders.with_options(task_runner=task_runner)
    assert run(delivery, tmp_path, most_rejected=0.5) == 9

    assert published(tmp_path) == ids
    aside = set_aside(tmp_path)
    assert [(each["line"], each["text"]) for each in aside] == [
        *enumerate(BAD, 1),
        (12, '{"id": "late"}'),
    ]
    for each, reason in zip(aside, [*BAD.values(), "cents Field required"], strict=True):
        assert each["reason"].startswith(reason)


@pytest.mark.guarantee(NAME, "apart")
def test_text_that_is_not_utf_8_is_kept_as_it_arrived(tmp_path: Path) -> None:
    """A record with bytes that are not UTF-8 is set aside, and its bytes can be got back."""
    latin = '{"id": "café", "cents": 1}'.encode("latin-1")
    delivery = deliver(tmp_path, GOOD % "a", latin)
    assert import_orders(delivery, tmp_path, most_rejected=0.5) == 1
    (aside,) = set_aside(tmp_path)
    assert aside["text"].encode(errors="surrogateescape") == latin


@pytest.mark.guarantee(NAME, "apart")
def test_line_separators_within_a_record_do_not_split_it(tmp_path: Path) -> None:
    """Only a line feed ends a record, and the last record needs none."""
    delivery = deliver(tmp_path, GOOD % "a\u2028b\x85c", GOOD % "d" + "\r")
    delivery.write_bytes(delivery.read_bytes().rstrip(b"\n"))
    assert import_orders(delivery, tmp_path, most_rejected=0) == 2
    assert published(tmp_path) == ["a\u2028b\x85c", "d"]


@pytest.mark.guarantee(NAME, "gate")
@given(good=st.integers(0, 50), bad=st.integers(0, 50), allowed=st.floats(0, 1))
@example(good=19, bad=1, allowed=0.05)
@example(good=18, bad=1, allowed=0.05)
@example(good=0, bad=0, allowed=1)
@example(good=0, bad=3, allowed=1)
def test_the_gate_opens_to_the_allowed_share(good: int, bad: int, allowed: float) -> None:
    """A delivery passes if it has a good record and no larger share of bad ones than allowed."""
    orders = [Order(id=str(number), cents=1) for number in range(good)]
    rejected = [Rejected(number, "", "bad") for number in range(bad)]
    if good and bad / (good + bad) <= allowed:
        gate(orders, rejected, allowed)
    else:
        with pytest.raises(BadDeliveryError):
            gate(orders, rejected, allowed)


@pytest.mark.guarantee(NAME, "gate")
@pytest.mark.parametrize(
    ("records", "allowed", "told"),
    [
        ([], 1, "no good record"),
        (["{}", GOOD % "c"], 0.4, "50.0% of the records are bad, the first in line 1: id Field"),
        ([GOOD % "c", GOOD % "d", GOOD % "c"], 1, "1 ids are there more than once, the first: c"),
    ],
    ids=["empty", "share", "twice"],
)
def test_a_refused_delivery_leaves_what_was_published(
    tmp_path: Path, records: list[str], allowed: float, told: str
) -> None:
    """The flow fails with what is wrong; what the earlier run published stays."""
    import_orders(deliver(tmp_path, GOOD % "a"), tmp_path)
    state: Any = import_orders(
        deliver(tmp_path, *records), tmp_path, most_rejected=allowed, return_state=True
    )
    assert state.is_failed()
    with pytest.raises(BadDeliveryError, match=told):
        state.result()
    assert published(tmp_path) == ["a"]
    assert len(set_aside(tmp_path)) == records.count("{}")


@pytest.mark.guarantee(NAME, "gate")
@pytest.mark.parametrize("share", [-0.1, 1.1, 5])
def test_a_share_is_not_a_percentage(tmp_path: Path, share: float) -> None:
    """A share below 0 or above 1 is refused before anything is read."""
    with pytest.raises(ParameterTypeError, match="most_rejected"):
        import_orders(tmp_path / "no-such-file", tmp_path, most_rejected=share)


@pytest.mark.guarantee(NAME, "bugs")
def test_a_bug_in_the_check_is_no_bad_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is not about the record fails the flow and changes no file."""
    import_orders(deliver(tmp_path, GOOD % "a", "bad"), tmp_path, most_rejected=0.5)

    def broken(text: str) -> Order:
        raise ValueError("a bug")

    monkeypatch.setattr(Order, "model_validate_json", broken)
    with pytest.raises(ValueError, match="a bug"):
        import_orders(deliver(tmp_path, GOOD % "b"), tmp_path)
    assert published(tmp_path) == ["a"]
    assert [each["text"] for each in set_aside(tmp_path)] == ["bad"]


@pytest.mark.guarantee(NAME, "mended")
def test_mended_lines_are_imported_in_their_places(tmp_path: Path) -> None:
    """Corrected lines are published in their places and leave the quarantine; twice is as once."""
    delivery = deliver(tmp_path, GOOD % "a", "{}", GOOD % "c", "{}")
    assert import_orders(delivery, tmp_path, most_rejected=0.5) == 2
    for _ in range(2):
        import_orders(delivery, tmp_path, most_rejected=0.5, mended={2: GOOD % "b"})
        assert published(tmp_path) == ["a", "b", "c"]
        assert [each["line"] for each in set_aside(tmp_path)] == [4]


@pytest.mark.guarantee(NAME, "mended")
@pytest.mark.parametrize("line", [0, 2])
def test_a_line_that_does_not_exist_can_not_be_mended(tmp_path: Path, line: int) -> None:
    """A correction of a line that the delivery does not have is refused."""
    with pytest.raises(ValueError, match=f"monday.jsonl has no line {line} to mend"):
        import_orders(deliver(tmp_path, GOOD % "a"), tmp_path, mended={line: GOOD % "b"})


@pytest.mark.guarantee(NAME, "whole")
def test_a_reader_keeps_the_file_that_it_has_opened(tmp_path: Path) -> None:
    """Who reads a file while the next run replaces it reads the old one to its end."""
    import_orders(deliver(tmp_path, GOOD % "a", "bad"), tmp_path, most_rejected=0.5)
    files = [tmp_path / name / "monday.jsonl" for name in ("published", "quarantine")]
    before = [file.read_text() for file in files]
    with files[0].open() as orders, files[1].open() as bad:
        import_orders(deliver(tmp_path, GOOD % "b"), tmp_path)
        assert [orders.read(), bad.read()] == before
    assert published(tmp_path) == ["b"]
    assert set_aside(tmp_path) == []
    (tmp_path / "new").touch()
    assert {file.stat().st_mode for file in files} == {(tmp_path / "new").stat().st_mode}


def read_number(text: str) -> int:
    """Read a record; fail if it is no number."""
    return int(text)


@pytest.mark.fact(NAME, "first")
def test_one_failed_task_of_a_map_hides_the_results_of_the_others() -> None:
    """`.result()` of a map raises the error of the failed task, and returns nothing."""
    read = task(read_number)

    @flow
    def import_numbers() -> list[int]:
        return read.map(["1", "two", "3"]).result()

    with pytest.raises(ValueError, match="two"):
        import_numbers()


@pytest.mark.fact(NAME, "mixed")
def test_errors_stand_among_the_results_of_a_completed_flow() -> None:
    """With `raise_on_failure=False` errors are items of the list, and the flow is Completed."""
    read = task(read_number)

    @flow
    def import_numbers() -> list[Any]:
        return read.map(["1", "two", "3"]).result(raise_on_failure=False)

    state: Any = import_numbers(return_state=True)
    one, error, three = state.result()
    assert (one, type(error), three, state.is_completed()) == (1, ValueError, 3, True)
