# SPDX-License-Identifier: Apache-2.0
"""`flowgauge advise --measure` keeps what it measured here, and nothing else.

`tests/test_wheel.py` lets it measure.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from flowgauge.cli.app import run
from flowgauge.predict.this_machine import MARK, kept_file, kept_results
from flowgauge.results.fingerprint import versions
from flowgauge.results.rows import Results
from flowgauge.server.template import cache_folder
from flowgauge.waiting import patience, wait_until

ROOT = Path(__file__).parents[3]
WORDS = ("advise", "--task-ms", "100", "--tasks", "20")
SHARED = cache_folder()
"""The database template in it need not be made again."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache folder, in which nothing was measured, apart from the templates."""
    folder = tmp_path / "cache" / "flowgauge"
    folder.mkdir(parents=True)
    for template in SHARED.glob("database-*"):
        (folder / template.name).symlink_to(template)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    return folder


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a command in a folder, in an environment without this pytest run."""
    return subprocess.Popen(
        [sys.executable, "-m", "flowgauge", *words],
        cwd=folder,
        env={
            name: text
            for name, text in os.environ.items()
            if not name.startswith(("PREFECT_", "PYTEST_", "FLOWGAUGE_ZYGOTE"))
        }
        | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def keep(**marks: object) -> None:
    """Keep the reference results as what was measured here, with other marks."""
    costs = Results.load(ROOT / "reports" / "reference" / "results.json")
    here = {"cores": os.cpu_count(), "versions": versions()}
    kept_file().parent.mkdir(parents=True)
    replace(costs, fingerprint={**costs.fingerprint, **here, **marks}).save(kept_file())


def test_what_was_measured_here_is_used_later(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Later advice uses what was measured on this machine, and its first line says so."""
    assert kept_results() is None
    keep()
    assert run(list(WORDS)) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"costs from this machine ({kept_file()}, by flowgauge advise --meas")


@pytest.mark.parametrize("marks", [{"versions": {"prefect": "3.8.0.dev1"}}, {"cores": 4096}])
def test_what_no_longer_fits_is_not_used(cache: Path, marks: dict[str, object]) -> None:
    """What was measured with another Prefect, or on another machine, is not used."""
    keep(**marks)
    assert kept_results() is None


def test_measuring_and_given_results_exclude_each_other(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--measure` together with `--results` is reported in one line."""
    assert run([*WORDS, "--measure", "--results", "x.json"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.e2e
def test_an_interrupted_measurement_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    """Ctrl-C ends all processes, removes all files, and keeps no results."""
    before = set(tmp_path.iterdir())
    command = started(tmp_path, *WORDS, "--measure")
    assert command.stderr is not None
    while not (line := command.stderr.readline()).startswith(MARK):
        assert line, "it ended before it could be interrupted"
    children = psutil.Process(command.pid).children(recursive=True)
    assert children
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=patience())
    assert command.returncode != 0
    wait_until(lambda: not any(child.is_running() for child in children), "the processes to end")
    assert set(tmp_path.iterdir()) == before
    assert kept_results() is None
