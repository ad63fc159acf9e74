# SPDX-License-Identifier: Apache-2.0
"""Start the process that checks a project, apart from the user's Prefect."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from flowgauge.check.candidates import Project, find
from flowgauge.check.problem import Report
from flowgauge.mistake import Mistake
from flowgauge.server.isolation import run_environment

_NO_SERVER = "http://no-server.invalid/api"


class CheckError(Mistake):
    """A request to check something that can't be checked; the message is one line."""


@dataclass(frozen=True)
class Request:
    """What to check.

    Attributes:
        project: The files.
        base: The folder where Prefect would run.
        seconds: How long each import may take.
    """

    project: Project
    base: Path
    seconds: float


REQUEST = TypeAdapter(Request)
REPORT = TypeAdapter(Report)


def check_project(path: Path, seconds: float) -> Report:
    """Check that all flows and deployments of a project load, without a server.

    Args:
        path: The project's folder, or one Python file.
        seconds: How long the import of each file may take.

    Returns:
        What is wrong.

    Raises:
        CheckError: If there is nothing to check at the path, or the number is not positive.
    """
    if not 0 < seconds < float("inf"):
        raise CheckError(f"--seconds {seconds:g}: give more than zero")
    if not path.exists():
        raise CheckError(f"{path}: no such file or folder")
    if path.is_file() and path.suffix != ".py":
        raise CheckError(f"{path}: give a project's folder, or a file ending in .py")
    place = path.resolve()
    project = find(place)
    if not (project.flow_files or project.deployment_files or project.broken):
        raise CheckError(f"{path}: there are no flows and no prefect.yaml: give a project's folder")
    here = Path.cwd().resolve()
    base = here if place.is_relative_to(here) else place if place.is_dir() else place.parent
    return _checked(Request(project, base, seconds))


def _checked(request: Request) -> Report:
    with tempfile.TemporaryDirectory(prefix="flowgauge-check-") as home:
        done = subprocess.run(
            # `-P`: modules in the working directory hide none of those that are needed.
            [sys.executable, "-P", "-m", "flowgauge.check"],
            input=REQUEST.dump_json(request),
            stdout=subprocess.PIPE,
            env=_environment(Path(home)),
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"the process that checks ended with status {done.returncode}")
    report = REPORT.validate_json(done.stdout)
    if report.refusal:
        raise CheckError(report.refusal)
    return report


def _environment(home: Path) -> dict[str, str]:
    """Return an environment without the user's Prefect, and without a server to start or ask."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **kept,
        **run_environment(home, stock=True),
        # A request would go there; a variable outweighs a `.env`, a `prefect.toml` and a profile.
        "PREFECT_API_URL": _NO_SERVER,
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    }
