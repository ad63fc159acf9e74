# SPDX-License-Identifier: Apache-2.0
"""The work of a task: a number of iterations of a kernel, fixed before anything is timed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import pickle
import platform
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from flowgauge.files import write_whole
from flowgauge.json_file import JsonFileError, read_json
from flowgauge.workflows.workflow import GraphError, Kernel

BLOCK_BYTES = 64 * 1024
"""The bytes that one iteration of `native`, `memory` or `bytes` processes."""
MEMORY_BYTES = 32 * 2**20
"""The size of the buffers that `memory` copies between: more than fits into processor caches."""
WAIT_SECONDS = 1e-4
"""The duration of one iteration of `wait`."""
_CALIBRATION_SECONDS = 0.03
_CALIBRATION_ROUNDS = 5


def _wait(iterations: int) -> int:
    """Wait, as for a slow service."""
    if iterations:
        time.sleep(iterations * WAIT_SECONDS)
    return iterations


def _python(iterations: int) -> int:
    """Compute in pure Python, which holds the interpreter lock."""
    value = 1
    for _ in range(iterations):
        value = (value * 1103515245 + 12345) & 0x7FFFFFFF
    return value


def _native(iterations: int) -> int:
    """Hash blocks, for which hashlib releases the interpreter lock."""
    digest = hashlib.sha256()
    block = bytes(BLOCK_BYTES)
    for _ in range(iterations):
        digest.update(block)
    return int.from_bytes(digest.digest()[:8])


def _memory(iterations: int) -> int:
    """Copy blocks between two large buffers."""
    source, target = _source(), _target()
    checksum = 0
    for index in range(iterations):
        # A prime number of blocks further each time, so that no block is still in a cache.
        start = index * 257 * BLOCK_BYTES % MEMORY_BYTES
        target[start : start + BLOCK_BYTES] = source[start : start + BLOCK_BYTES]
        checksum += target[start]
    return checksum


def _bytes(iterations: int) -> int:
    """Pickle and unpickle records, as when results are passed between processes."""
    records = _records()
    checksum = 0
    for _ in range(iterations):
        checksum += len(pickle.loads(pickle.dumps(records)))
    return checksum


@functools.cache
def _source() -> memoryview:
    return memoryview(random.Random(0).randbytes(MEMORY_BYTES))


_of_thread = threading.local()


def _target() -> memoryview:
    if not hasattr(_of_thread, "target"):
        _of_thread.target = memoryview(bytearray(MEMORY_BYTES))
    target: memoryview = _of_thread.target
    return target


@functools.cache
def _records() -> list[tuple[int, str]]:
    """Return records that pickle to about one block."""
    return [(number, f"record {number:06}") for number in range(BLOCK_BYTES // 21)]


_KERNELS: Mapping[Kernel, Callable[[int], int]] = {
    "wait": _wait,
    "python": _python,
    "native": _native,
    "memory": _memory,
    "bytes": _bytes,
}


def work(kernel: Kernel, iterations: int) -> int:
    """Do a given amount of work.

    Args:
        kernel: The kind of work.
        iterations: The number of iterations.

    Returns:
        A number that depends on the kernel and the iterations, to check that the work was done.
    """
    return _KERNELS[kernel](iterations)


def timed_work(kernel: Kernel, iterations: int) -> tuple[int, float]:
    """Do a given amount of work, and time it where it is done.

    Args:
        kernel: The kind of work.
        iterations: The number of iterations.

    Returns:
        The answer of `work`, and the seconds that it took.
    """
    start = time.perf_counter()
    answer = work(kernel, iterations)
    return answer, time.perf_counter() - start


expected = functools.lru_cache(maxsize=4096)(work)
"""The answer of `work`, to check others with; cached, so that each amount is computed once."""


@dataclass(frozen=True)
class Speeds:
    """The speed of each kernel on one worker of this machine when nothing else runs.

    Attributes:
        per_second: The iterations of each kernel in a second.
    """

    per_second: Mapping[Kernel, float]

    def iterations(self, kernel: Kernel, seconds: float) -> int:
        """Convert seconds of work to iterations.

        Args:
            kernel: The kind of work.
            seconds: The time that it should take one worker while nothing else runs.

        Returns:
            The number of iterations; at least one unless the seconds are zero.
        """
        return max(round(self.per_second[kernel] * seconds), 1 if seconds > 0 else 0)

    def seconds(self, kernel: Kernel, iterations: int) -> float:
        """Return the seconds that a number of iterations takes."""
        return iterations / self.per_second[kernel]


def calibrate() -> Speeds:
    """Measure the speed of each kernel.

    Returns:
        The speeds of the fastest of a few rounds, because disturbances only make a round slower.
    """
    return Speeds({kernel: _speed(kernel) for kernel in get_args(Kernel)})


def _speed(kernel: Kernel) -> float:
    if kernel == "wait":
        return 1 / WAIT_SECONDS
    iterations = 1
    while _seconds(kernel, iterations) < _CALIBRATION_SECONDS:
        iterations *= 2
    return iterations / min(_seconds(kernel, iterations) for _ in range(_CALIBRATION_ROUNDS))


def _seconds(kernel: Kernel, iterations: int) -> float:
    start = time.perf_counter()
    work(kernel, iterations)
    return time.perf_counter() - start


def machine_speeds(cache: Path) -> Speeds:
    """Return the speeds of this machine, measuring them the first time.

    Args:
        cache: A folder to store them in; if it can't be written, they are measured in every run.

    Returns:
        The same speeds in every run, so that the same seconds are always the same work.

    Raises:
        GraphError: If the stored file is broken.
    """
    parts = (platform.node(), platform.processor(), platform.python_version(), BLOCK_BYTES)
    file = cache / f"kernels-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"
    if file.is_file():
        try:
            stored = read_json(file)
            return Speeds({kernel: float(stored[kernel]) for kernel in get_args(Kernel)})
        except (JsonFileError, ValueError, KeyError, TypeError):
            raise GraphError(f"{file} is broken: remove it to measure speeds again") from None
    speeds = calibrate()
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(dict(speeds.per_second), indent=2) + "\n")
    return speeds
