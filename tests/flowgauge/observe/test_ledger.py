# SPDX-License-Identifier: Apache-2.0
"""The effect ledger."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.task_runners import TaskRunner

from flowgauge.observe.ledger import Effect, EffectLedger, LedgerError

RECORD = """
import sys
from pathlib import Path
from flowgauge.observe.ledger import EffectLedger

path, process, records = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
ledger = EffectLedger(path)
sys.stdin.readline()
for number in range(records):
    ledger.record("charged", process=process, number=number, text="x" * (number % 7 * 2000))
    print(number, flush=True)
"""

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["reserved", "charged", "shipped"])


def start_recording(path: Path, process: int, records: int) -> subprocess.Popen[str]:
    """Start a process that waits for a line and then records effects."""
    return subprocess.Popen(
        [sys.executable, "-c", RECORD, str(path), str(process), str(records)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def ledger(tmp_path: Path) -> EffectLedger:
    """Return an empty ledger."""
    return EffectLedger(tmp_path / "effects.jsonl")


def message_of(assertion: Callable[..., None], *args: Any, **data: Any) -> str:
    """Return the message of a failing assertion."""
    with pytest.raises(AssertionError) as caught:
        assertion(*args, **data)
    return str(caught.value)


@settings(max_examples=8)
@given(processes=st.integers(1, 4), records=st.integers(1, 40))
def test_concurrent_processes_lose_and_tear_nothing(processes: int, records: int) -> None:
    """However the records of several processes interleave, each is there once, and complete."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = EffectLedger(Path(folder) / "effects.jsonl")
        running = [start_recording(ledger.path, number, records) for number in range(processes)]
        for process in running:
            process.communicate("go\n")
        effects = ledger.effects("charged")
        assert not ledger.torn
    for number in range(processes):
        own = [effect for effect in effects if effect.data["process"] == number]
        assert [effect.data["number"] for effect in own] == list(range(records))
        assert [effect.sequence for effect in own] == list(range(records))
        assert {effect.pid for effect in own} == {running[number].pid}
    assert len(effects) == processes * records
    assert [effect.monotonic for effect in effects] == sorted(e.monotonic for e in effects)


@settings(max_examples=5)
@given(st.integers(0, 30))
def test_a_killed_process_loses_no_recorded_effect(after: int) -> None:
    """Effects whose `record` call returned survive SIGKILL, and others can go on recording."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = EffectLedger(Path(folder) / "effects.jsonl")
        with start_recording(ledger.path, 0, 10_000) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            for _ in range(after):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            acknowledged = after + len(process.stdout.readlines())
        ledger.record("charged", process=1, number=0)
        numbers = [effect.data["number"] for effect in ledger.effects("charged", process=0)]
        assert ledger.count("charged", process=1) == 1
    # The effect that it was recording when it died may be there or not.
    assert len(numbers) in {acknowledged, acknowledged + 1}
    assert numbers == list(range(len(numbers)))


@given(
    st.lists(st.tuples(NAMES, st.dictionaries(st.text(), JSON, max_size=2)), max_size=5),
    st.floats(0, 1),
)
def test_a_truncated_file_is_read_as_far_as_it_goes(
    records: list[tuple[str, dict[str, Any]]], share: float
) -> None:
    """Reading a ledger cut off anywhere never raises, invents nothing and gives the torn rest."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = EffectLedger(Path(folder) / "effects.jsonl")
        for name, values in records:
            ledger.record(name, **values)
        whole = ledger.path.read_bytes() if records else b""
        before = ledger.effects()
        size = round(share * len(whole))
        ledger.path.write_bytes(whole[:size])
        left, torn = ledger.effects(), ledger.torn
        assert left == before[: len(left)]
        assert [(effect.name, effect.data) for effect in before] == records
        assert len(left) - whole[:size].count(b"\n") in {0, 1}
        assert b"".join(part.encode() for part in torn) in whole
        # The next effect that is recorded starts a new line.
        ledger.record("shipped", order=1)
        assert ledger.effects()[:-1] == left
        assert ledger.effects()[-1].data == {"order": 1}
        assert ledger.torn == torn


@given(st.binary(max_size=200))
def test_any_file_can_be_read(content: bytes) -> None:
    """Each non-empty line that is not a record counts as torn, whatever it contains."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = EffectLedger(Path(folder) / "effects.jsonl")
        ledger.path.write_bytes(content)
        assert ledger.effects() == ()
        assert len(ledger.torn) == len([line for line in content.split(b"\n") if line])


def test_recording_waits_for_other_writers(ledger: EffectLedger) -> None:
    """Nobody writes to the ledger while another process or thread does."""
    begun = threading.Event()

    def record() -> None:
        begun.set()
        ledger.record("charged")

    thread = threading.Thread(target=record)
    with ledger.path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread.start()
        begun.wait()
        # A thread that did not wait would write within moments.
        thread.join(timeout=0.2)
        assert thread.is_alive()
        assert ledger.count() == 0
    thread.join()
    assert ledger.count() == 1


def test_an_effect_says_who_did_it_and_when(ledger: EffectLedger) -> None:
    """An effect has its process, its thread, a sequence number, and its time on two clocks."""
    thread = threading.Thread(target=ledger.record, args=("charged",), name="cashier")
    thread.start()
    thread.join()
    ledger.record("charged")
    first, second = ledger.effects()
    assert first.pid == os.getpid()
    assert first.thread == "cashier"
    assert first.monotonic <= second.monotonic
    assert first.time <= second.time
    assert first.sequence + 1 == second.sequence


def test_effects_are_found_by_name_and_data(ledger: EffectLedger) -> None:
    """Effects are distinguished by name and by any part of their data, compared as JSON."""
    ledger.record("charged", order=17, items=("pen", "ink"))
    ledger.record("charged", order=1)
    ledger.record("shipped", order=17)
    assert ledger.count() == 3
    assert ledger.count("charged") == 2
    assert ledger.count(None, order=17) == 2
    assert [effect.name for effect in ledger.effects(order=17)] == ["charged", "shipped"]
    assert ledger.count("charged", items=("pen", "ink")) == 1
    assert ledger.count("charged", items=["ink", "pen"]) == 0
    assert ledger.count("charged", order="17") == 0
    assert ledger.count("charged", order=True) == 0


def test_data_may_have_any_name(ledger: EffectLedger) -> None:
    """Names that the methods' own parameters might have can be used for data."""
    ledger.record("charged", name="Ada", self=1, where=2, data=3, steps=4)
    assert ledger.count("charged", name="Ada", where=2) == 1


@pytest.mark.parametrize("value", [date(2026, 1, 1), {1, 2}, float("nan"), object()])
def test_data_without_a_json_form_are_refused(ledger: EffectLedger, value: object) -> None:
    """Data that can't be written are refused in one line that names them; nothing is recorded."""
    with pytest.raises(
        LedgerError, match=r"effect 'charged': total=.* can't be written as JSON"
    ) as caught:
        ledger.record("charged", total=value)
    assert len(str(caught.value).splitlines()) == 1
    assert ledger.count() == 0


def test_exactly_once(ledger: EffectLedger) -> None:
    """`assert_exactly_once` requires exactly one effect with these data."""
    ledger.record("charged", order=17)
    ledger.record("charged", order=18)
    ledger.assert_exactly_once("charged", order=17)
    ledger.record("charged", order=17, attempt=2)
    said = message_of(ledger.assert_exactly_once, "charged", order=17)
    assert said.startswith("charged(order=17) was recorded 2 times, not exactly once; ")
    assert [line[:1] for line in said.splitlines()[1:]] == [">", " ", ">"]
    assert "charged(order=17, attempt=2)" in said
    assert f"(pid {os.getpid()}, MainThread)" in said
    never = message_of(ledger.assert_exactly_once, "charged", order=19)
    assert never.startswith("charged(order=19) was never recorded, not exactly once")


def test_exactly_once_of_all_data(ledger: EffectLedger) -> None:
    """Without data, `assert_exactly_once` requires effects of the name, all with different data."""
    assert "never recorded" in message_of(ledger.assert_exactly_once, "charged")
    ledger.record("charged", order=17)
    ledger.record("charged", order=18)
    ledger.assert_exactly_once("charged")
    ledger.record("charged", order=18)
    said = message_of(ledger.assert_exactly_once, "charged")
    assert said.startswith("charged(order=18) was recorded 2 times")


def test_at_least_once(ledger: EffectLedger) -> None:
    """`assert_at_least_once` requires one effect or more."""
    assert "charged(order=17) was never" in message_of(
        ledger.assert_at_least_once, "charged", order=17
    )
    for _ in range(2):
        ledger.record("charged", order=17)
        ledger.assert_at_least_once("charged", order=17)


@pytest.mark.parametrize(
    ("recorded", "says"),
    [
        (["reserved", "charged", "shipped"], None),
        (["reserved", "reserved", "charged", "shipped"], None),
        (["reserved", "shipped", "charged"], "shipped(order=17) was recorded before charged"),
        (["reserved", "charged", "reserved", "shipped"], "charged(order=17) was recorded before"),
        (["reserved", "charged"], "shipped(order=17) was never recorded"),
    ],
)
def test_order(ledger: EffectLedger, recorded: list[str], says: str | None) -> None:
    """`assert_order` requires all effects of a step before all effects of the next."""
    ledger.record("shipped", order=16)
    for name in recorded:
        ledger.record(name, order=17)
    if says is None:
        ledger.assert_order("reserved", "charged", "shipped", order=17)
    else:
        said = message_of(ledger.assert_order, "reserved", "charged", "shipped", order=17)
        assert said.startswith(says)


def test_order_with_different_data(ledger: EffectLedger) -> None:
    """Each step of an order may have its own data."""
    ledger.record("charged", order=1, currency="EUR")
    ledger.record("charged", order=2, currency="EUR")
    first, second = ("charged", {"order": 1}), ("charged", {"order": 2})
    ledger.assert_order(first, second, currency="EUR")
    assert "charged(order=1, currency='EUR') was recorded before" in message_of(
        ledger.assert_order, second, first
    )


def test_an_order_of_one_step_is_a_mistake(ledger: EffectLedger) -> None:
    """An order of a single step, which could not be violated, is refused."""
    with pytest.raises(LedgerError, match="at least two steps"):
        ledger.assert_order("charged")


def test_a_failure_shows_torn_lines_and_some_effects(ledger: EffectLedger) -> None:
    """A failed assertion shows the torn line of a process that died, and 50 of 1000 effects."""
    line = json.dumps(vars(Effect("seen", {}, 0, 1, "a", 0.0, 0.0)) | {"effect": "seen"})
    fields = json.loads(line)
    del fields["name"]
    ledger.path.write_text(f"{json.dumps(fields)}\n" * 1000 + '{"effect": "char')
    said = message_of(ledger.assert_exactly_once, "charged")
    assert len(said.splitlines()) < 60
    assert "and 950 more" in said
    assert said.endswith('torn, as a process died while it recorded: {"effect": "char')


@task(retries=1)
def charge(ledger: EffectLedger, order: int) -> None:
    """Charge an order; the first time, fail after the effect."""
    ledger.record("charged", order=order)
    if ledger.count("charged", order=order) == 1:
        raise ConnectionError("the answer was lost")


@flow
def charges(ledger: EffectLedger) -> None:
    """Charge two orders and ship one of them."""
    charged = [charge.submit(ledger, order) for order in (17, 18)]
    for future in charged:
        future.result()
    ledger.record("shipped", order=17)


def test_a_retried_effect_is_seen(
    task_runner: TaskRunner[Any], effect_ledger: EffectLedger
) -> None:
    """On every task runner, a task that is retried after its effect has its effect twice."""
    charges.with_options(task_runner=task_runner)(effect_ledger)
    assert effect_ledger.count("charged", order=17) == 2
    said = message_of(effect_ledger.assert_exactly_once, "charged", order=17)
    assert said.startswith("charged(order=17) was recorded 2 times, not exactly once")
    effect_ledger.assert_at_least_once("charged", order=18)
    effect_ledger.assert_order("charged", "shipped", order=17)


def test_a_ledger_may_be_closed_over(
    task_runner: TaskRunner[Any], runner_name: str, effect_ledger: EffectLedger
) -> None:
    """A task may close over a ledger; the effect names the process that the task ran in."""

    @task
    def ship() -> int:
        effect_ledger.record("shipped")
        return os.getpid()

    @flow(task_runner=task_runner)
    def ships() -> int:
        return ship.submit().result()

    pid = ships()
    effect_ledger.assert_exactly_once("shipped")
    assert effect_ledger.effects("shipped")[0].pid == pid
    assert (pid == os.getpid()) == (runner_name in {"sequential", "threads", "dask-threads"})
