# SPDX-License-Identifier: Apache-2.0
"""The log of slots says who holds some and who waits for some."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from pathlib import Path

from flowgauge.clock.slot_log import (
    Code,
    Holding,
    SlotLog,
    SlotWait,
    note_free,
    note_held,
    noted_wait,
)


def test_what_is_noted_is_read_until_it_is_over(tmp_path: Path) -> None:
    """A reader that reads on again and again sees what is held and who waits, and no more later."""
    code = Code.here()
    log = SlotLog(tmp_path)
    log.read_on()
    assert (log.held, log.waits) == ({}, [])
    holding, wait = Holding(code, ("a", "b"), 2, 1.5), SlotWait(code, "task 't'", ("c",), 1, "x:1")
    note_held(tmp_path, "lease", holding)
    with noted_wait(tmp_path, wait):
        log.read_on()
        assert (log.held, log.waits) == ({"lease": holding}, [wait])
    note_free(tmp_path, "lease")
    log.read_on()
    assert (log.held, log.waits) == ({}, [])


def test_nothing_is_noted_after_the_run(tmp_path: Path) -> None:
    """A process that outlives its pytest run does not make its folder again."""
    gone = tmp_path / "gone"
    note_free(gone, "lease")
    assert not gone.exists()


def test_code_is_told_from_other_code() -> None:
    """Threads differ, and so do tasks of an event loop; a task is the same each time."""
    found = [Code.here()]
    thread = threading.Thread(target=lambda: found.append(Code.here()))
    thread.start()
    thread.join()

    async def both() -> None:
        async def look() -> tuple[Code, Code]:
            before = Code.here()
            await asyncio.sleep(0)
            return before, Code.here()

        looks = await asyncio.gather(look(), look())
        assert all(before == after for before, after in looks)
        found.extend(before for before, _ in looks)

    asyncio.run(both())
    assert len(set(found)) == len(found) == 4


def test_code_lives_as_long_as_its_process() -> None:
    """A process that has ended, or another one that got its identifier, is not taken for it."""
    assert Code.here().lives()
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        code = pool.apply(Code.here)
        assert code.lives()
    pool.join()
    assert not code.lives()
    assert not Code(Code.here().pid, created=0.0, thread=1).lives()
