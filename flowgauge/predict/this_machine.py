# SPDX-License-Identifier: Apache-2.0
"""Measures the costs of task runners on this machine, and keeps them for later advice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from flowgauge.mistake import Mistake
from flowgauge.results.fingerprint import versions
from flowgauge.results.rows import Results, ResultsError
from flowgauge.server.template import cache_folder

MARK = "measured "
"""What the lines for the user begin with."""
_LAST_LINES = 15


class MeasureError(Mistake):
    """A measurement that failed; the message is one line, for the user."""


def kept_file() -> Path:
    """Return the file that keeps what was measured on this machine; it need not exist."""
    return cache_folder() / "advise" / "results.json"


def kept_results() -> Path | None:
    """Return the file with what was measured here, unless it was with another Prefect."""
    try:
        origin = Results.load(kept_file()).fingerprint
    except ResultsError:
        return None
    same = origin.get("versions", {}).get("prefect") == versions()["prefect"]
    return kept_file() if same and origin.get("cores") == os.cpu_count() else None


def measure_here(say: Callable[[str], None]) -> Path:
    """Measure all installed task runners in a pytest run of its own, and keep the results.

    That run is isolated, and ends what it starts, also if it is interrupted.

    Args:
        say: Called with a line for each task runner.

    Returns:
        The file with the results.

    Raises:
        MeasureError: If it fails.
        KeyboardInterrupt: If the user interrupts it; all that was started has ended.
    """
    with tempfile.TemporaryDirectory(prefix="flowgauge-") as folder:
        (Path(folder) / "pytest.ini").write_text("[pytest]\nflowgauge = true\n")
        lines = _run(folder, say)
        measured = Path(folder) / "results.json"
        if not measured.exists():
            reason = next((line for line in reversed(lines) if line.strip()), "no output")
            raise MeasureError(f"measuring failed: {reason.strip()}")
        kept_file().parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(measured, kept_file())
    return kept_file()


def _run(folder: str, say: Callable[[str], None]) -> list[str]:
    """Run pytest, pass on the lines for the user, and return the last of the others."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-s", "--noconftest"]
    places = [
        "--benchmark-only",
        "--import-mode=importlib",
        "--rootdir",
        folder,
        "-c",
        f"{folder}/pytest.ini",
        "--flow-report-dir",
        folder,
        # Otherwise pytest leaves a folder in the one for temporary files.
        "--basetemp",
        f"{folder}/pytest",
    ]
    file = str(Path(__file__).with_name("measurements.py"))
    environment = {name: text for name, text in os.environ.items() if name != "PYTEST_ADDOPTS"}
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "pytest", *options, *places, file],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Ctrl-C reaches it once, from here: a second one would interrupt how it ends things.
        start_new_session=True,
    )
    assert child.stdout is not None
    lines: list[str] = []
    try:
        for line in child.stdout:
            _, mark, rest = line.rstrip().partition(MARK)
            if mark:
                say(mark + rest)
            else:
                lines = [*lines[-_LAST_LINES:], line]
        child.wait()
    except BaseException:
        child.send_signal(signal.SIGINT)
        child.wait()
        raise
    return lines
