# SPDX-License-Identifier: Apache-2.0
"""Processor load: what else the machine did while something was measured on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

_STAT = Path("/proc/stat")
_LIMITS = Path("/sys/fs/cgroup/cpu.stat")
_STATUS = Path("/proc/self/status")
_LOOK_SECONDS = 0.04
_QUIET = 0.3
"""The share of one processor up to which the machine counts as quiet; it is not smaller because
the system counts in hundredths of a second."""


@dataclass(frozen=True)
class Load:
    """The processor time used up to a moment, in seconds.

    Attributes:
        when: The moment, by a monotonic clock.
        ours: Used by this process and its child processes, running or already waited for.
        all: Used by all processes; None if the system does not report it.
        stolen: Used by the host of a virtual machine for others; None if not reported.
        throttled: For which a limit on processor time stopped this container; None if not
            reported.
    """

    when: float
    ours: float
    all: float | None
    stolen: float | None
    throttled: float | None

    def since(self, start: Load) -> dict[str, float]:
        """Return the load since an earlier moment, for a fingerprint; unknown figures are left out.

        Args:
            start: The load at that moment.

        Returns:
            `elapsed_seconds` and `cpu_seconds` of this run, `others_percent` and
            `stolen_percent` of all processors, and `throttled_seconds`.
        """
        elapsed = self.when - start.when
        figures = {
            "elapsed_seconds": round(elapsed, 1),
            "cpu_seconds": round(self.ours - start.ours, 1),
        }
        processors = max(elapsed, 1e-9) * (os.cpu_count() or 1)
        if self.all is not None and start.all is not None:
            others = (self.all - start.all) - (self.ours - start.ours)
            figures["others_percent"] = round(max(100 * others / processors, 0.0), 1)
        if self.stolen is not None and start.stolen is not None:
            figures["stolen_percent"] = round(100 * (self.stolen - start.stolen) / processors, 1)
        if self.throttled is not None and start.throttled is not None:
            figures["throttled_seconds"] = round(self.throttled - start.throttled, 1)
        return figures


def load_now() -> Load:
    """Return the processor time used so far."""
    everything, stolen = _of_machine()
    return Load(time.monotonic(), _of_this_run(), everything, stolen, _throttled())


def wait_until_quiet(
    used: Callable[[], float] | None = None, *, deadline: float = 0.5, look: float = _LOOK_SECONDS
) -> bool:
    """Wait until the processors are almost idle.

    The server still writes a flow run's task runs to its database after the flow run has ended;
    this must not slow down what is timed next.

    Args:
        used: Returns the processor seconds used so far; by default those of all processes.
        deadline: Seconds after which to give up, because something else uses the processors.
        look: Seconds from one check to the next.

    Returns:
        Whether the machine is quiet.
    """
    used = used or _used
    end = time.monotonic() + deadline
    before = used()
    while True:
        time.sleep(look)
        now = used()
        if now - before <= _QUIET * look:
            return True
        if time.monotonic() >= end:
            return False
        before = now


def _used() -> float:
    times = psutil.cpu_times()
    return float(sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0))


def peak_memory_mib() -> int | None:
    """Return the peak memory of this process in MiB, or None if the system does not report it."""
    try:
        # Not getrusage(2), whose peak a process inherits from the one that started it.
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        return None


def _of_this_run() -> float:
    process = psutil.Process()
    seconds = sum(process.cpu_times()[:4])
    for child in process.children(recursive=True):
        try:
            seconds += sum(child.cpu_times()[:4])
        except psutil.Error:
            continue
    return float(seconds)


def _of_machine() -> tuple[float | None, float | None]:
    """Return the seconds used by all processes and those stolen by the host (proc(5))."""
    try:
        fields = _STAT.read_text().partition("\n")[0].split()[1:9]
        user, nice, system, _, _, irq, softirq, stolen = map(int, fields)
    except (OSError, ValueError):
        return None, None
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks, stolen / ticks


def _throttled() -> float | None:
    """Return the seconds for which this container was throttled (cgroup v2, cpu.stat)."""
    try:
        entries = dict(line.split() for line in _LIMITS.read_text().splitlines())
        return int(entries["throttled_usec"]) / 1e6
    except (OSError, ValueError, KeyError):
        return None
