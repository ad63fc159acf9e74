# SPDX-License-Identifier: Apache-2.0
"""Kernels do the work that is asked for, and hold or release the GIL as documented."""

from __future__ import annotations

import functools
import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.workflows import kernels
from flowgauge.workflows.kernels import (
    BLOCK_BYTES,
    MEMORY_BYTES,
    WAIT_SECONDS,
    Speeds,
    calibrate,
    machine_speeds,
    work,
)
from flowgauge.workflows.workflow import GraphError, Kernel

KERNELS = get_args(Kernel)
UNIFORM = Speeds(dict.fromkeys(KERNELS, 1000.0))


@pytest.fixture(scope="module")
def speeds() -> Speeds:
    """Return this machine's speeds, measured now."""
    return calibrate()


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_answer_shows_how_much_was_done(kernel: Kernel) -> None:
    """The same number of iterations gives the same answer, and any other number another one."""
    answers = [work(kernel, iterations) for iterations in range(12)]
    assert len(set(answers)) == 12
    assert [work(kernel, iterations) for iterations in range(12)] == answers


@pytest.mark.parametrize("kernel", KERNELS)
def test_iterations_are_proportional_to_seconds(kernel: Kernel, speeds: Speeds) -> None:
    """The number of iterations is proportional to the seconds that are asked for."""
    assert speeds.iterations(kernel, 0.04) == pytest.approx(
        4 * speeds.iterations(kernel, 0.01), abs=2
    )
    assert speeds.iterations(kernel, 0) == 0


def test_memory_is_copied() -> None:
    """The answer of `memory` is computed from the copies of its blocks, which are all different."""
    source = random.Random(0).randbytes(MEMORY_BYTES)
    blocks = [257 * index * BLOCK_BYTES % MEMORY_BYTES for index in range(20)]
    assert work("memory", 20) == sum(source[start] for start in blocks)
    assert len(set(blocks)) == 20


def test_waiting_takes_the_time_that_was_asked_for() -> None:
    """The kernel `wait` takes at least the 0.1 s asked for, at most half of it on the processor."""
    start, used = time.perf_counter(), time.thread_time()
    work("wait", round(0.1 / WAIT_SECONDS))
    elapsed = time.perf_counter() - start
    assert elapsed >= 0.1
    assert time.thread_time() - used < elapsed / 2


HOLDS_THE_LOCK = {"python": True, "bytes": True, "memory": True, "native": False, "wait": False}


@pytest.mark.parametrize("kernel", KERNELS)
def test_which_kernels_hold_the_gil(
    kernel: Kernel, speeds: Speeds, request: pytest.FixtureRequest
) -> None:
    """Other threads run while `native` and `wait` work, but not while the other kernels do."""
    # No thread is made to release the GIL for this long: only a kernel itself releases it.
    request.addfinalizer(functools.partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(60)
    begun: list[bool] = []
    ended: list[bool] = []

    def busy() -> None:
        begun.append(True)
        # In parts, so that `wait` releases the GIL more than once, as `native` does. Kernels that
        # never release it finish before any other thread gets a turn.
        for _ in range(8 if HOLDS_THE_LOCK[kernel] else 10_000):
            work(kernel, speeds.iterations(kernel, 0.02))
            if turns > 5:
                break
        ended.append(True)

    work(kernel, 1)
    turns = 0
    thread = threading.Thread(target=busy)
    thread.start()
    while not ended:
        turns += bool(begun)
        time.sleep(0)
    thread.join()
    assert (turns > 5) is not HOLDS_THE_LOCK[kernel], turns


@given(st.sampled_from(KERNELS), st.floats(1e-9, 1e4))
def test_seconds_become_iterations(kernel: Kernel, seconds: float) -> None:
    """Seconds are rounded to the nearest iteration; any work is at least one iteration."""
    iterations = UNIFORM.iterations(kernel, seconds)
    assert iterations >= 1
    assert UNIFORM.seconds(kernel, iterations) == pytest.approx(max(seconds, 0.001), abs=0.0005001)
    assert UNIFORM.iterations(kernel, 0) == 0


def test_a_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run uses the speeds of the first, so that equal seconds are equal work."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(kernels, "calibrate", lambda: UNIFORM)
    assert machine_speeds(cache) == UNIFORM
    monkeypatch.setattr(kernels, "calibrate", None)
    assert machine_speeds(cache) == UNIFORM
    (kept,) = cache.iterdir()
    assert json.loads(kept.read_text()) == dict(UNIFORM.per_second)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"wait": 1}', "null", "[" * 10**5])
def test_broken_speeds_are_reported(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of speeds that can't be parsed is reported in one line, and is not changed."""
    monkeypatch.setattr(kernels, "calibrate", lambda: UNIFORM)
    machine_speeds(tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_text(text)
    with pytest.raises(GraphError, match=r"kernels-.*\.json is broken: remove it") as caught:
        machine_speeds(tmp_path)
    assert "\n" not in str(caught.value)
    assert kept.read_text() == text


def test_speeds_are_measured_if_the_cache_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If speeds can't be cached, the machine is measured."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(kernels, "calibrate", lambda: UNIFORM)
    assert machine_speeds(tmp_path / "file" / "cache") == UNIFORM
