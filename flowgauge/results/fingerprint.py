# SPDX-License-Identifier: Apache-2.0
"""The fingerprint in every results file: the command, the machine and the versions."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

_PACKAGES = (
    "flowgauge",
    "prefect",
    "prefect-dask",
    "distributed",
    "pytest",
    "pytest-benchmark",
    "fastapi",
    "SQLAlchemy",
    "pydantic",
)

Value = str | float | int | None


def fingerprint(root: Path, workers: int, command: str) -> dict[str, Value | dict[str, str]]:
    """Describe the machine and the versions that a figure depends on.

    Args:
        root: A folder in the git repository whose commit is recorded.
        workers: How many tasks could run side by side.
        command: The command line that produced the figures.

    Returns:
        Plain data, ready for JSON; sizes in GiB, load as the average of the last minute.
    """
    # pytest-benchmark brings it.
    import cpuinfo

    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _git_commit(root),
        "command": command,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_model": cpuinfo.get_cpu_info().get("brand_raw"),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1m": round(os.getloadavg()[0], 2),
        "workers": workers,
        "versions": versions(),
    }


def command_line(arguments: Iterable[str]) -> str:
    """Return the command line of a pytest run, without the option for the report's folder.

    Args:
        arguments: The arguments of pytest.

    Returns:
        A line for a shell.
    """
    remaining = iter(arguments)
    words = ["pytest"]
    for argument in remaining:
        if argument == "--flow-report-dir":
            next(remaining, None)
        elif not argument.startswith("--flow-report-dir="):
            words.append(argument)
    return shlex.join(words)


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of the packages that figures depend on."""
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def _git_commit(root: Path) -> str | None:
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
