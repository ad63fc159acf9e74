# SPDX-License-Identifier: Apache-2.0
"""The memory that a call takes is seen wherever its work is done."""

from __future__ import annotations

import itertools
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from flowgauge.measure import memory_watch
from flowgauge.measure.memory import memory_of
from flowgauge.measure.memory_watch import growth
from flowgauge.runners.started import StartedRunners

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")

HELD = 64
"""The MiB that a candidate holds for a moment."""
NOISE = 4
"""MiB: what processes take by themselves, such as for the stack of a new thread."""

Call = Callable[[Callable[..., int], int], Any]


def hold(mib: int) -> int:
    """Hold memory for no longer than it takes to write to it, and return a number.

    It is not the allocator's, which may keep what earlier tests have freed: a forked worker would
    use that, and keep it.
    """
    with mmap.mmap(-1, max(mib * 2**20, mmap.PAGESIZE)) as memory:
        memory[:: mmap.PAGESIZE] = b"x" * (len(memory) // mmap.PAGESIZE)
    return 1


@contextmanager
def here(_: StartedRunners) -> Iterator[Call]:
    """Yield what calls a function in this process."""
    yield lambda function, argument: function(argument)


@contextmanager
def pool(method: str) -> Iterator[Call]:
    """Yield what calls a function in a worker process that is up."""
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as executor:
        executor.submit(hold, 0).result()
        yield lambda function, argument: executor.submit(function, argument).result()


@contextmanager
def dask(started: StartedRunners) -> Iterator[Call]:
    """Yield what calls a function in the worker processes of a Dask cluster."""
    from distributed import Client

    address = started.dask_scheduler("dask-processes")
    with Client(address, set_as_default=False) as client:
        # Always the same one: a worker's first task takes memory by itself.
        worker = next(iter(client.scheduler_info()["workers"]))

        def call(function: Callable[..., int], argument: int) -> Any:
            return client.submit(function, argument, pure=False, workers=[worker]).result()

        call(hold, 0)
        yield call


PLACES: dict[str, Callable[[StartedRunners], AbstractContextManager[Call]]] = {
    "this process": here,
    "a forked worker": lambda _: pool("fork"),
    "a worker of a fork server": lambda _: pool("forkserver"),
    "a Dask worker": dask,
}


@pytest.mark.parametrize("place", PLACES)
def test_memory_held_for_a_moment_is_seen(place: str, started_runners: StartedRunners) -> None:
    """What a candidate holds, however briefly, is its difference from what holds nothing."""
    with PLACES[place](started_runners) as call:
        found = memory_of(lambda: call(hold, HELD), lambda: call(hold, 0))
        swapped = memory_of(lambda: call(hold, 0), lambda: call(hold, HELD))
    assert found is not None
    assert swapped is not None
    assert (found.candidate, found.reference) == pytest.approx((HELD, 0), abs=NOISE)
    assert (swapped.candidate, swapped.reference) == pytest.approx((0, HELD), abs=NOISE)


def test_memory_that_is_freed_and_used_again_is_seen_again() -> None:
    """What the reference freed in this process, and the allocator kept, is not the candidate's."""
    last: list[bytes] = []

    def many_blocks() -> None:
        blocks = [b"x" * 10_000 for _ in range(HELD * 2**20 // 10_000)]
        # Because of it the allocator keeps what is below, when that is freed.
        last.append(blocks[-1])

    found = memory_of(many_blocks, many_blocks)
    assert found is not None
    assert found.reference == pytest.approx(HELD, abs=NOISE)
    assert found.candidate == pytest.approx(HELD, abs=NOISE)


def looked_at(looks: int, at_first: Callable[[], object]) -> int:
    """Return the growth of this process and its descendants in MiB, after a number of looks."""
    done = itertools.count(1)

    def is_over(seconds: float) -> bool:
        if (number := next(done)) == 1:
            at_first()
        return number >= looks

    grown = growth(os.getpid(), lambda: None, is_over)
    assert grown is not None
    return grown // 1024


def _hold_until_told(mib: int, told: Connection) -> None:
    held = bytearray(mib * 2**20)
    told.send(len(held))
    told.recv()


def _growth_of_forks() -> int:
    shared = bytearray(4 * HELD * 2**20)
    with ExitStack() as stack:

        def fork_two() -> None:
            for _ in range(2):
                ours, theirs = get_context("fork").Pipe()
                process = get_context("fork").Process(target=_hold_until_told, args=(HELD, theirs))
                process.start()
                stack.callback(process.join)
                stack.callback(ours.send, "end")
                assert ours.recv()

        grown = looked_at(3, fork_two)
    assert len(shared) == 4 * HELD * 2**20
    return grown


def test_forks_count_with_what_they_alone_hold() -> None:
    """A new worker counts, without the memory of its parent that it shares.

    The parent is a new process, too: where earlier tests freed memory, the allocator may give it
    back at any time, and what is given back by one of those that share it is another one's alone.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        grown = executor.submit(_growth_of_forks).result()
    assert grown == pytest.approx(2 * HELD, abs=HELD)


HOLDING = f"""
import sys
held = bytearray({HELD} * 2**20)
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["flowgauge.server", "prefect.server.api.server:create_app", "x"])
def test_the_server_does_not_count(name: str) -> None:
    """A new process counts with all that it holds, unless it is Prefect's server."""
    with ExitStack() as stack:

        def start() -> None:
            command = [sys.executable, "-I", "-S", "-c", HOLDING, name]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = stack.enter_context(subprocess.Popen(command, **pipes))
            assert process.stdout is not None
            process.stdout.readline()

        counts = HELD if name == "x" else 0
        # The interpreter itself holds some MiB.
        assert looked_at(3, start) == pytest.approx(counts + NOISE, abs=2 * NOISE)


def test_a_call_that_fails_ends_the_watch() -> None:
    """If the candidate fails, the error is raised, and the process that watched has ended."""
    with pytest.raises(ZeroDivisionError):
        memory_of(lambda: 1 / 0, None)


@pytest.mark.parametrize("reason", ["another system", "not permitted"])
def test_memory_that_is_not_reported_is_unknown(
    reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If the system does not report peaks, both are called, and their memory is None."""
    called: list[str] = []
    if reason == "another system":
        monkeypatch.setattr(sys, "platform", "darwin")
    else:
        script = tmp_path / "watch.py"
        text = Path(memory_watch.__file__).read_text()
        script.write_text(text.replace('"clear_refs"', '"no_such_file"'))
        monkeypatch.setattr(memory_watch, "__file__", str(script))
    found = memory_of(lambda: called.append("candidate"), lambda: called.append("reference"))
    assert found is None
    assert called == ["reference", "candidate"]
