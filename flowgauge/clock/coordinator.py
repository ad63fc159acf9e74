# SPDX-License-Identifier: Apache-2.0
"""The coordinator of virtual time: it tracks every run and wait, skips time, and wakes waiters."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowgauge.clock.awaited_run import somebody_on
from flowgauge.clock.leases import give_back
from flowgauge.clock.runs import Lease, Runs, RunStatus, Wait
from flowgauge.clock.shared_time import SharedTime

START_GRACE = 60.0
"""Seconds without news after which a submitted task run that seems to have a free worker is assumed
to be queued behind something unknown and no longer about to start; until then a worker may still
be starting. The same holds for a task being submitted: its runner may be waiting for a free
worker."""

RECHECK_AFTER = 0.01
"""Seconds between two checks that must both find nothing going on."""

REPORT_AFTER = 3.0
"""Seconds of real waiting after which the reason that time is not skipped is reported."""


def socket_path(home: Path) -> str:
    """Return the socket on which the coordinator of a pytest run listens."""
    return str(home / "clock.socket")


@dataclass
class _Process:
    """The connection to a process that runs tasks or flows."""

    number: int
    writer: asyncio.StreamWriter
    answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)

    def tell(self, message: dict[str, Any]) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")


class Coordinator:
    """A thread that decides when time is skipped; see `flowgauge.clock.runs`."""

    def __init__(self, home: Path, shared: SharedTime, api_url: str) -> None:
        """Start the thread and listen.

        Args:
            home: The folder of the pytest run.
            shared: The virtual time that it advances.
            api_url: The address of the API of the Prefect server.
        """
        self._api_url = api_url
        self._path = socket_path(home)
        self._time = shared
        self._runs = Runs()
        self._processes: dict[int, _Process] = {}
        self._numbers = itertools.count(1)
        self._questions = itertools.count(1)
        self._news = 0
        self._last_news = time.monotonic()
        self._held_up_since: float | None = None
        self._in_vain: dict[tuple[int, int], tuple[int, float]] = {}
        self.unskipped: dict[str, None] = {}
        """The reasons that time was not skipped: one sentence each, as keys."""
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flowgauge-clock", daemon=True)
        self._thread.start()
        self._listening.wait()

    def close(self) -> None:
        """Stop; whatever still waits continues in real time."""
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
                self._handle(process, json.loads(line))
        except ConnectionError:
            pass
        finally:
            del self._processes[process.number]
            self._runs.drop(process.number, self._time.now())
            for answer in process.answers.values():
                answer.cancel()
            writer.close()
            self._note_news()

    def _note_news(self) -> None:
        self._news += 1
        self._last_news = time.monotonic()
        self._changed.set()

    def _handle(self, process: _Process, message: dict[str, Any]) -> None:
        runs, number = self._runs, process.number
        match message.pop("about"):
            case "begin":
                runs.begin(number, **message)
            case "end":
                runs.end(**message)
            case "submit":
                runs.submit(number, **message)
            case "wait":
                runs.wait(number, message.pop("id"), Wait(**message))
            case "no wait":
                runs.waits.pop((number, message["id"]), None)
            case "change":
                runs.change(**message)
            case "lease":
                lease = message.pop("lease")
                runs.leases[lease] = Lease(number, self._time.now(), **message)
            case "no lease":
                runs.leases.pop(message["lease"], None)
            case "unskipped":
                self.unskipped[message["sentence"]] = None
            case "sightings":
                answer = process.answers.pop(message["question"], None)
                if answer is not None and not answer.done():
                    answer.set_result(message)
                return
        self._note_news()

    async def _skip(self) -> None:
        """Wake the waits that are due, and advance time while nothing else is going on."""
        while True:
            self._changed.clear()
            self._wake_due()
            await self._take_back()
            until = self._runs.skippable_until()
            if until is None:
                await self._nothing_to_skip()
                continue
            reason, seconds = await self._held_up(self._runs.giving_up(until))
            if reason is None:
                self._held_up_since = None
                self._time.ahead += max(0.0, until - self._time.now())
                continue
            self._report(reason)
            await self._news_within(min(seconds, max(0.0, until - self._time.now())))

    def _wake_due(self) -> None:
        for number, wait_id in self._runs.due(self._time.now()):
            self._runs.wake(number, wait_id)
            self._processes[number].tell({"about": "wake", "id": wait_id})
            self._note_news()

    async def _take_back(self) -> None:
        """Give the slots back whose leases are over in virtual time, as the server would."""
        import httpx

        for lease in self._runs.leases_over(self._time.now()):
            with contextlib.suppress(httpx.HTTPError):
                await asyncio.to_thread(give_back, self._api_url, lease)

    def _seconds_to_next_deadline(self) -> float | None:
        deadline = min((wait.deadline for wait in self._runs.waits.values()), default=math.inf)
        return None if deadline == math.inf else max(0.0, deadline - self._time.now())

    async def _news_within(self, seconds: float | None) -> None:
        # Not `wait_for`: in Python 3.11 it ignores to be cancelled if news come at that moment.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _nothing_to_skip(self) -> None:
        """Wait for news; tell of runs that look again and again for what nobody does."""
        self._held_up_since = None
        now = time.monotonic()
        if self._runs.served():
            # A flow run is being executed, perhaps by a process that is still starting.
            self._in_vain.clear()
        for (number, _), wait in self._runs.waits.items():
            if wait.poller is None or wait.idle:
                continue
            began = (self._runs.happened, now)
            happened, since = self._in_vain.get((number, wait.poller), began)
            if happened != self._runs.happened:
                since = now
            self._in_vain[number, wait.poller] = (self._runs.happened, since)
            if now - since > REPORT_AFTER:
                self._tell("something that no other run does", [wait])
        seconds = self._seconds_to_next_deadline()
        await self._news_within(None if seconds is None else min(seconds, REPORT_AFTER))

    async def _held_up(self, giving_up: list[Wait]) -> tuple[str | None, float]:
        """Return why time cannot be skipped now, and after how many seconds to check again.

        Args:
            giving_up: The waits for someone else that would end unsuccessfully.

        Returns:
            The reason, None if there is none, and the seconds.
        """
        about_to_begin = self._runs.about_to_begin()
        silence = time.monotonic() - self._last_news
        if about_to_begin and silence < START_GRACE:
            return "a submitted task run that has not started", START_GRACE - silence
        # A run that starts and waits between the two checks may have an earlier deadline.
        news = self._news
        for check in (1, 2):
            if check == 2:
                await asyncio.sleep(RECHECK_AFTER)
            reason = await self._going_on(giving_up)
            if news != self._news:
                return "news", 0.0
            if reason is not None:
                return reason, 0.02
        return None, 0.0

    async def _going_on(self, giving_up: list[Wait]) -> str | None:
        """Ask every process what its runs are doing; return the first activity found."""
        question = next(self._questions)
        answers: list[asyncio.Future[dict[str, Any]]] = []
        for process in self._processes.values():
            process.answers[question] = self._loop.create_future()
            answers.append(process.answers[question])
            process.tell({"about": "look", "question": question, "outside": bool(giving_up)})
        sightings: dict[str, RunStatus] = {}
        outside = ""
        done, pending = await asyncio.wait(answers, timeout=1) if answers else (set(), set())
        if pending:
            return "a process that does not answer"
        for answer in done:
            if answer.cancelled():
                return "a process that ended"
            reply = answer.result()
            if reply["requests"]:
                return "a request to the Prefect server"
            for key, doing, awaited, where in reply["runs"]:
                sightings[key] = RunStatus(doing, frozenset(awaited), where)
            outside = outside or reply["outside"]
        polling = frozenset(at[0] for at, wait in self._runs.waits.items() if wait.slot)
        for key in self._runs.busy(sightings, polling):
            run = self._runs.live[key]
            silence = time.monotonic() - self._last_news
            if key in sightings and sightings[key].doing == "submits" and silence >= START_GRACE:
                continue
            where = sightings[key].where if key in sightings else ""
            return f"{run.kind} {run.name!r}" + (f", which is at {where}" if where else "")
        return outside or await self._others_on(giving_up)

    async def _others_on(self, giving_up: list[Wait]) -> str | None:
        """Return who else may still do what somebody is about to give up waiting for."""
        awaited = {wait.awaited_run: wait.deadline for wait in giving_up if wait.awaited_run}
        for run in sorted(awaited.keys() - self._runs.live.keys()):
            if who := await asyncio.to_thread(somebody_on, self._api_url, run, awaited[run]):
                return who
        return None

    def _report(self, reason: str) -> None:
        now = time.monotonic()
        if self._held_up_since is None:
            self._held_up_since = now
            return
        # What the test itself waits for, with `advance`, is what its runs do in real time.
        waits = [wait for wait in self._runs.waits.values() if wait.is_of_a_run()]
        if waits and now - self._held_up_since > REPORT_AFTER and reason != "news":
            self._tell(reason, waits)

    def _tell(self, reason: str, waits: Iterable[Wait]) -> None:
        live = self._runs.live
        names = sorted({live[wait.run].name for wait in waits if wait.run in live})
        who = " and ".join(repr(name) for name in names) or "a wait"
        self.unskipped[f"{who} waited in real time for {reason}"] = None
