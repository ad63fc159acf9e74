# SPDX-License-Identifier: Apache-2.0
"""What the processes of this pytest run use: processor time and memory."""

from __future__ import annotations

import contextlib

import psutil


def processor_seconds() -> dict[str, dict[int, float]]:
    """Return the processor time of each process of this pytest run.

    Returns:
        For "the flow" (this process), "workers" and "the server": seconds by process id.
    """
    seconds: dict[str, dict[int, float]] = {"the flow": {}, "workers": {}, "the server": {}}
    flow = psutil.Process()
    for process in [flow, *flow.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            is_server = any("flowgauge.server" in word for word in process.cmdline())
            kind = "the server" if is_server else "workers"
            kind = "the flow" if process.pid == flow.pid else kind
            seconds[kind][process.pid] = times.user + times.system
    return seconds


def resident_mib() -> float:
    """Return the memory that this process has in RAM, in MiB."""
    return float(psutil.Process().memory_info().rss) / 2**20
