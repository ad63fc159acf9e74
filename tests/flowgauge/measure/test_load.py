# SPDX-License-Identifier: Apache-2.0
"""A run measures how much of the machine it used, and how much others used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowgauge.measure import load as measured
from flowgauge.measure.load import Load, load_now, wait_until_quiet
from flowgauge.waiting import wait_until

CORES = os.cpu_count() or 1
START = Load(when=100.0, ours=10.0, all=50.0, stolen=1.0, throttled=0.5)


def test_what_others_used_is_separated_from_ours() -> None:
    """What this run used is subtracted from what all processes used."""
    end = Load(when=110.0, ours=10.0 + 4.0, all=50.0 + 7.0, stolen=1.0 + CORES, throttled=0.75)
    told = end.since(START)
    assert told["elapsed_seconds"] == 10.0
    assert told["cpu_seconds"] == 4.0
    assert told["others_percent"] == pytest.approx(100 * 3.0 / (10 * CORES), abs=0.06)
    assert told["stolen_percent"] == pytest.approx(10.0)
    assert told["throttled_seconds"] == 0.2


def test_unknown_figures_are_left_out() -> None:
    """If the system reports nothing about others, the fingerprint leaves those figures out."""
    end = Load(when=110.0, ours=14.0, all=None, stolen=None, throttled=None)
    assert end.since(START) == {"elapsed_seconds": 10.0, "cpu_seconds": 4.0}


def test_work_of_child_processes_is_ours() -> None:
    """The processor time of a child process is counted, while it runs and afterwards."""
    code = "import sys, time\nwhile time.process_time() < 0.4: sum(range(10**5))\nsys.stdin.read()"
    start, own = load_now(), time.process_time()

    def beyond_own() -> float:
        return load_now().ours - start.ours - (time.process_time() - own)

    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        wait_until(lambda: beyond_own() >= 0.2)
        process.stdin.close()
    assert beyond_own() >= 0.2


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_whole_machine_is_measured() -> None:
    """All processes together have used more than this run, and what this run used grows."""
    first = load_now()
    sum(range(3 * 10**6))
    second = load_now()
    assert first.all is not None
    assert second.all is not None
    assert first.ours < first.all <= second.all
    assert second.ours > first.ours


@pytest.mark.parametrize("text", ["", "cpu a b", "nothing"])
def test_files_in_another_format_are_not_an_error(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the system's files are missing or have another format, others' figures are unknown."""
    file = tmp_path / "stat"
    for name in ("_STAT", "_LIMITS"):
        monkeypatch.setattr(measured, name, file)
    assert load_now().all is None
    file.write_text(text)
    assert (load_now().all, load_now().stolen, load_now().throttled) == (None, None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_of_memory_is_measured() -> None:
    """Memory that a process has freed still counts; the memory of its parent does not."""
    held = bytearray(300 * 2**20)
    code = (
        "from flowgauge.measure.load import peak_memory_mib as peak\n"
        "before = peak(); held = bytearray(200 * 2**20); del held; print(before, peak())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, said.stdout.split())
    assert 5 < before < 200 < after < len(held) // 2**20


def test_computing_processes_are_waited_for() -> None:
    """The machine is quiet once processes have stopped computing, and not before."""
    seconds = iter([0.0, 0.01, 0.02, 0.021, 5.0])
    assert wait_until_quiet(lambda: next(seconds), deadline=60, look=0.01)
    assert next(seconds) == 5.0


def test_waiting_for_quiet_ends_at_the_deadline() -> None:
    """If others never stop computing, the wait ends after the deadline."""
    start = time.monotonic()
    assert not wait_until_quiet(time.monotonic, deadline=0.05, look=0.01)
    assert time.monotonic() - start >= 0.05


def test_the_systems_figure_includes_this_process() -> None:
    """The system's figure includes all that this process used, apart from rounding."""
    start, own = measured._used(), time.process_time()
    while time.process_time() - own < 0.2:
        sum(range(10**4))
    assert measured._used() - start > 0.15
