# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/transactions/idempotent_write.py`."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.runtime import task_run
from prefect.settings import PREFECT_RESULTS_PERSIST_BY_DEFAULT, temporary_settings
from prefect.task_runners import TaskRunner

from flowgauge.waiting import patience
from patterns.transactions.idempotent_write import main, open_bank, pay, pay_all, write_file
from tests.patterns.transactions.killed import kill_at_points

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "transactions/idempotent_write"
SALARIES = {"Ali": 300, "Eve": 320}


def accounts(bank: Path) -> dict[str, int]:
    """Return what is in the accounts."""
    with closing(open_bank(bank)) as db:
        return dict(db.execute("SELECT name, cents FROM account").fetchall())


def payments(bank: Path) -> list[tuple[str, str, int]]:
    """Return who was paid for which month."""
    with closing(open_bank(bank)) as db:
        rows = db.execute("SELECT name, month, cents FROM payment ORDER BY name, month")
        return list(rows.fetchall())


def failing_pay(bank: Path, outcomes: dict[tuple[str, str], str]) -> Any:
    """Return `pay` on a bad connection.

    Args:
        bank: The database.
        outcomes: For a payment, what happens to its attempts: `b` fails before the payment, `a`
            after it, and then it succeeds.

    Returns:
        A task like `pay`.
    """

    def pay_or_fail(name: str, month: str, cents: int) -> int:
        outcome = outcomes.get((name, month), "")[task_run.run_count - 1 :][:1]
        if outcome == "b":
            raise ConnectionError("no connection")
        balance = pay.fn(bank, name, month, cents)
        if outcome == "a":
            raise ConnectionError("the answer is lost")
        return balance

    return task(retries=pay.retries)(pay_or_fail)


@pytest.mark.guarantee(NAME, "once")
@pytest.mark.guarantee(NAME, "at-once")
@settings(max_examples=2)
@given(
    outcomes=st.dictionaries(
        st.tuples(st.sampled_from(["Ali", "Eve"]), st.sampled_from(["2026-10", "2026-11"])),
        st.text("ab", max_size=2),
        min_size=1,
    ),
    repeated=st.integers(1, 3),
)
@example(outcomes={("Ali", "2026-10"): "ab", ("Ali", "2026-11"): "a"}, repeated=4)
def test_each_salary_is_paid_once(
    task_runner: TaskRunner[Any],
    tmp_path_factory: pytest.TempPathFactory,
    outcomes: dict[tuple[str, str], str],
    repeated: int,
) -> None:
    """Equal calls at once, with lost answers, in two runs: each salary is paid exactly once."""
    bank = tmp_path_factory.mktemp("bank") / "bank.db"
    open_bank(bank).close()
    paying = failing_pay(bank, outcomes)

    @flow(task_runner=task_runner)
    def pay_repeatedly() -> None:
        names, months = zip(*sorted(outcomes) * repeated, strict=True)
        paying.map(names, months, 300).result()

    for _ in range(2):
        pay_repeatedly()
    assert payments(bank) == [(*each, 300) for each in sorted(outcomes)]
    names = [name for name, _ in outcomes]
    assert accounts(bank) == {name: 300 * names.count(name) for name in names}


@pytest.mark.guarantee(NAME, "at-once")
@pytest.mark.guarantee(NAME, "answer")
def test_a_call_waits_for_an_equal_one_that_is_not_yet_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an equal payment is about to be committed, a call waits, and returns its balance."""
    bank, waits = tmp_path / "bank.db", threading.Event()
    balances: list[int] = []

    def open_traced(file: Path) -> sqlite3.Connection:
        db = open_bank(file)
        db.set_trace_callback(lambda sql: waits.set() if sql.startswith("INSERT") else None)
        return db

    monkeypatch.setattr("patterns.transactions.idempotent_write.open_bank", open_traced)
    with closing(open_bank(bank)) as db, db:
        db.execute("INSERT INTO payment VALUES ('Ali', '10', 300, 300)")
        db.execute("INSERT INTO account VALUES ('Ali', 300)")
        second = threading.Thread(
            target=lambda: balances.append(pay.fn(bank, "Ali", "10", 300)), daemon=True
        )
        second.start()
        assert waits.wait(patience())
    second.join(patience())
    assert (balances, accounts(bank)) == ([300], {"Ali": 300})


@pytest.mark.guarantee(NAME, "once")
@pytest.mark.guarantee(NAME, "answer")
@pytest.mark.parametrize("persisted", [False, True])
def test_a_repeated_run_returns_what_the_first_returned(tmp_path: Path, persisted: bool) -> None:
    """A second run, and one after the next month's, return the balances of the first."""
    with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: persisted}):
        for month, balances in [("10", [300, 320]), ("10", [300, 320]), ("11", [600, 640])] * 2:
            assert pay_all(tmp_path, month, SALARIES) == balances
    assert accounts(tmp_path / "bank.db") == {"Ali": 600, "Eve": 640}
    assert (tmp_path / "10.txt").read_text() == "Ali: 300\nEve: 320\n"


@pytest.mark.guarantee(NAME, "other")
def test_another_amount_for_the_same_month_is_refused(tmp_path: Path) -> None:
    """A second call with another amount raises a ValueError, and nothing more is paid."""
    pay.fn(tmp_path / "bank.db", "Ali", "10", 300)
    with pytest.raises(ValueError, match="Ali was paid 300 for 10, which is not 301"):
        pay.fn(tmp_path / "bank.db", "Ali", "10", 301)
    assert accounts(tmp_path / "bank.db") == {"Ali": 300}


def pay_salaries(folder: Path) -> None:
    """Pay the salaries of a month, and report them."""
    pay_all(folder, "10", SALARIES)


def pay_salaries_again(folder: Path) -> list[Any]:
    """Return what is paid; then pay again, and return what is paid and reported, and all files."""
    first = accounts(folder / "bank.db"), [name for name, _, _ in payments(folder / "bank.db")]
    pay_all(folder, "10", SALARIES)
    files = sorted(file.name for file in folder.iterdir())
    report = (folder / "10.txt").read_text()
    return [*first, accounts(folder / "bank.db"), payments(folder / "bank.db"), report, files]


@pytest.mark.parametrize(
    "step", [pytest.param(4, marks=pytest.mark.e2e), pytest.param(1, marks=pytest.mark.nightly)]
)
@pytest.mark.guarantee(NAME, "killed")
@pytest.mark.guarantee(NAME, "file")
def test_the_next_run_pays_what_a_killed_one_did_not(tmp_path: Path, step: int) -> None:
    """Killed before any of its writes, each salary is paid and recorded, or neither.

    The next run pays the rest, and its report is whole.
    """
    (tmp_path / "start").mkdir()
    outcomes = kill_at_points(
        "test_idempotent_write:pay_salaries", tmp_path / "start", (None, None, -step)
    )
    # The order of the points varies with the threads of the task runner.
    for first, recorded, paid, rows, report, files in outcomes.values():
        assert first == {name: SALARIES[name] for name in recorded}
        assert (paid, rows) == (SALARIES, [[name, "10", SALARIES[name]] for name in SALARIES])
        assert report == "Ali: 300\nEve: 320\n"
        hidden = [file for file in files if file.startswith(".10.txt.")]
        assert len(hidden) <= 1
        assert set(files) <= {"10.txt", "bank.db", "bank.db-journal", *hidden}


@pytest.mark.guarantee(NAME, "file")
def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """If the text can't be encoded, the old report stays, and no other file does."""
    report = tmp_path / "report.txt"
    write_file(report, "old")
    with pytest.raises(UnicodeEncodeError):
        write_file(report, "new" * 100_000 + "\ud800")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("report.txt", "old")]


@pytest.mark.guarantee(NAME, "file")
def test_a_reader_sees_a_whole_report(tmp_path: Path) -> None:
    """A thread that reads while two others write sees whole reports, written by one of them."""
    report, size = tmp_path / "report.txt", 1_000_000
    write_file(report, "a" * size)
    go, ended = threading.Barrier(3), threading.Event()
    seen: set[tuple[str, int]] = set()
    wrote: list[str] = []

    def write(letter: str) -> None:
        go.wait(patience())
        for _ in range(10):
            write_file(report, letter * size)
        wrote.append(letter)

    def read() -> None:
        go.wait(patience())
        while not ended.is_set():
            text = report.read_text()
            seen.update((letter, text.count(letter)) for letter in set(text) or {""})

    writers = [threading.Thread(target=write, args=[letter]) for letter in "bc"]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join(patience())
    ended.set()
    reader.join(patience())
    assert sorted(wrote) == ["b", "c"]
    assert seen <= {("a", size), ("b", size), ("c", size)}
    assert [file.name for file in tmp_path.iterdir()] == ["report.txt"]


@pytest.mark.guarantee(NAME, "file")
def test_a_new_report_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    """The report has the permissions of a file that was simply opened."""
    write_file(tmp_path / "report.txt", "")
    (tmp_path / "other.txt").touch()
    modes = [(tmp_path / name).stat().st_mode for name in ("report.txt", "other.txt")]
    assert modes[0] == modes[1]


@pytest.mark.guarantee(NAME, "once")
def test_the_example_pays_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The second run of the example returns the balances of the first."""
    main()
    said = [line for line in capsys.readouterr().out.splitlines() if "balances" in line]
    assert said == ["balances: [300000, 320000]"] * 2


def naive(account: list[int], **options: Any) -> Any:
    """Return a task that pays without a key."""

    def pay_naively(cents: int) -> Any:
        account.append(cents)

    return task(**options)(pay_naively)


@pytest.mark.fact(NAME, "retried")
def test_a_naive_payment_with_a_lost_answer_is_made_again() -> None:
    """A task that paid, failed and was retried has paid twice."""
    account: list[int] = []

    @task(retries=1)
    def pay_naively() -> None:
        account.append(300)
        if len(account) == 1:
            raise ConnectionError("the answer is lost")

    @flow
    def pay_in_a_run() -> None:
        pay_naively()

    pay_in_a_run()
    assert account == [300, 300]


@pytest.mark.fact(NAME, "run-again")
def test_a_second_run_pays_again() -> None:
    """With persisted results and the default cache policy, a second flow run pays again."""
    account: list[int] = []
    paying = naive(account, persist_result=True)

    @flow
    def pay_in_a_run() -> None:
        paying(300)
        paying(300)

    pay_in_a_run()
    assert account == [300]
    pay_in_a_run()
    assert account == [300, 300]


@pytest.mark.fact(NAME, "race")
@pytest.mark.runners("threads")
def test_equal_calls_at_the_same_time_both_pay(task_runner: TaskRunner[Any]) -> None:
    """With `cache_policy=INPUTS`, two equal calls that overlap both pay."""
    both = threading.Barrier(2)

    @task(cache_policy=INPUTS, persist_result=True)
    def pay_naively(cents: int) -> int:
        both.wait(patience())
        return cents

    @flow(task_runner=task_runner)
    def pay_twice() -> Any:
        return [each.state.name for each in pay_naively.map([300, 300]) if each.wait() is None]

    assert pay_twice() == ["Completed", "Completed"]


@pytest.mark.fact(NAME, "unstored")
def test_a_payment_whose_result_is_not_stored_is_made_again() -> None:
    """With `cache_policy=INPUTS`, a second run pays again if the first could not store a result."""
    account: list[int] = []

    @task(cache_policy=INPUTS, persist_result=True)
    def pay_naively(cents: int) -> object:
        account.append(cents)
        return threading.Lock() if len(account) == 1 else cents

    @flow
    def pay_in_a_run() -> None:
        pay_naively(300)

    for times in (1, 2, 2):
        assert pay_in_a_run(return_state=True).is_completed()
        assert account == [300] * times
