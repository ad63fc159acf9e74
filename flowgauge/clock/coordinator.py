# SPDX-License-Identifier: Apache-2.0
"""Skips virtual time: hears of every run and every wait, and wakes who waits."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowgauge.clock.runs import Runs, RunStatus
from flowgauge.clock.shared_time import SharedTime

HAND_OVER = 60.0
"""Seconds without any news after which a submitted run, for which a worker seems to be free, is
held to be queued behind what is not known, and not on its way: a worker may have to start. The
same goes for a task that is being submitted: its runner may wait for a free worker."""

SECOND_LOOK = 0.01
"""Seconds between two looks that must both find nothing going on."""

REPORT_AFTER = 3.0
"""Seconds of real waiting after which it is reported what keeps time from being skipped."""


def socket_path(home: Path) -> str:
    """Return where the coordinator of a run listens."""
    return str(home / "clock.socket")


@dataclass
class _Process:
    """A connection to a process that runs tasks or flows."""

    number: int
    writer: asyncio.StreamWriter
    answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)

    def tell(self, message: dict[str, Any]) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")


class Coordinator:
    """A thread that decides when time is skipped; see `flowgauge.clock.runs`."""

    def __init__(self, home: Path, shared: SharedTime) -> None:
        """Start the thread and listen.

        Args:
            home: The folder of the run.
            shared: The virtual time that it moves.
        """
        self._path = socket_path(home)
        self._time = shared
        self._runs = Runs()
        self._processes: dict[int, _Process] = {}
        self._numbers = itertools.count(1)
        self._questions = itertools.count(1)
        self._news = 0
        self._last_news = time.monotonic()
        self._held_up_since: float | None = None
        self.unskipped: dict[str, None] = {}
        """What kept time from being skipped, one sentence each."""
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flowgauge-clock", daemon=True)
        self._thread.start()
        self._listening.wait()

    def close(self) -> None:
        """Stop; whoever still waits goes on in real time."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        Path(self._path).unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._connected, self._path)
        self._listening.set()
        skipping = asyncio.create_task(self._skip())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait([skipping, stop], return_when=asyncio.FIRST_COMPLETED)
        skipping.cancel()
        server.close()
        for process in self._processes.values():
            process.writer.close()
        Path(self._path).unlink(missing_ok=True)
        with contextlib.suppress(asyncio.CancelledError):
            await skipping

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        process = _Process(next(self._numbers), writer)
        self._processes[process.number] = process
        try:
            while line := await reader.readline():
                self._hear(process, json.loads(line))
        except ConnectionError:
            pass
        finally:
            del self._processes[process.number]
            self._runs.drop(process.number)
            for answer in process.answers.values():
                answer.cancel()
            writer.close()
            self._note_news()

    def _note_news(self) -> None:
        self._news += 1
        self._last_news = time.monotonic()
        self._changed.set()

    def _hear(self, process: _Process, message: dict[str, Any]) -> None:
        runs, number = self._runs, process.number
        match message.pop("about"):
            case "begin":
                runs.begin(number, **message)
            case "end":
                runs.end(**message)
            case "submit":
                runs.submit(number, **message)
            case "wait":
                runs.wait(number, message.pop("id"), **message)
            case "no wait":
                runs.waits.pop((number, message["id"]), None)
            case "unskipped":
                self.unskipped[message["sentence"]] = None
            case "sightings":
                answer = process.answers.pop(message["question"], None)
                if answer is not None and not answer.done():
                    answer.set_result(message)
                return
        self._note_news()

    async def _skip(self) -> None:
        """Wake whoever is due, and move time on while nothing else is going on."""
        while True:
            self._changed.clear()
            self._wake_due()
            until = self._runs.skippable_until()
            if until is None:
                self._held_up_since = None
                await self._news_within(self._seconds_to_next_deadline())
                continue
            reason, seconds = await self._held_up()
            if reason is None:
                self._held_up_since = None
                self._time.ahead += max(0.0, until - self._time.now())
                continue
            self._report(reason)
            await self._news_within(min(seconds, max(0.0, until - self._time.now())))

    def _wake_due(self) -> None:
        now = self._time.now()
        for (number, wait_id), wait in list(self._runs.waits.items()):
            if wait.deadline <= now:
                del self._runs.waits[number, wait_id]
                self._processes[number].tell({"about": "wake", "id": wait_id})
                self._note_news()

    def _seconds_to_next_deadline(self) -> float | None:
        deadlines = [wait.deadline for wait in self._runs.waits.values()]
        return max(0.0, min(deadlines) - self._time.now()) if deadlines else None

    async def _news_within(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    async def _held_up(self) -> tuple[str | None, float]:
        """Return what keeps time from being skipped, and when to look again in seconds."""
        about_to_begin = self._runs.about_to_begin()
        silence = time.monotonic() - self._last_news
        if about_to_begin and silence < HAND_OVER:
            return "a submitted task run that has not begun", HAND_OVER - silence
        # A run that begins and waits between the looks may wait for an earlier moment.
        news = self._news
        for look in (1, 2):
            if look == 2:
                await asyncio.sleep(SECOND_LOOK)
            reason = await self._going_on()
            if news != self._news:
                return "news", 0.0
            if reason is not None:
                return reason, 0.02
        return None, 0.0

    async def _going_on(self) -> str | None:
        """Ask every process what its runs do; return the first thing that is going on."""
        question = next(self._questions)
        answers: list[asyncio.Future[dict[str, Any]]] = []
        for process in self._processes.values():
            process.answers[question] = self._loop.create_future()
            answers.append(process.answers[question])
            process.tell({"about": "look", "question": question})
        sightings: dict[str, RunStatus] = {}
        done, pending = await asyncio.wait(answers, timeout=1) if answers else (set(), set())
        if pending:
            return "a process that does not answer"
        for answer in done:
            if answer.cancelled():
                return "a process that ended"
            seen = answer.result()
            if seen["requests"]:
                return "a request to the Prefect server"
            for key, doing, awaited, where in seen["runs"]:
                sightings[key] = RunStatus(doing, frozenset(awaited), where)
        polling = frozenset(at[0] for at, wait in self._runs.waits.items() if wait.polls)
        for key in self._runs.busy(sightings, polling):
            run = self._runs.live[key]
            silence = time.monotonic() - self._last_news
            if key in sightings and sightings[key].doing == "submits" and silence >= HAND_OVER:
                continue
            where = sightings[key].where if key in sightings else ""
            return f"{run.kind} {run.name!r}" + (f", which is at {where}" if where else "")
        return None

    def _report(self, reason: str) -> None:
        now = time.monotonic()
        if self._held_up_since is None:
            self._held_up_since = now
        elif now - self._held_up_since > REPORT_AFTER and reason != "news":
            names = sorted(
                {
                    self._runs.live[w.run].name
                    for w in self._runs.waits.values()
                    if w.run and w.run in self._runs.live
                }
            )
            who = " and ".join(repr(name) for name in names) or "a wait"
            self.unskipped[f"{who} waited in real time for {reason}"] = None
