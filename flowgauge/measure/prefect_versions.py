# SPDX-License-Identifier: Apache-2.0
"""Runs a project's benchmarks under several versions of Prefect, each in its own environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowgauge.mistake import Mistake
from flowgauge.results.rows import Results, ResultsError
from flowgauge.server.lease import ZYGOTE

_LEAST, _BELOW = (3, 6), (4,)
_GROUP = "test"


class VersionError(Mistake):
    """What a person can mend; the message is one line."""


@dataclass(frozen=True)
class Place:
    """Where one version is measured.

    Attributes:
        version: Of Prefect, as it was asked for, such as "3.7".
        folder: What belongs to it: its report, its environment and its log.
    """

    version: str
    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "environment" / "bin" / "python"

    @property
    def log(self) -> Path:
        """What uv and pytest printed."""
        return self.folder / "log.txt"


@dataclass(frozen=True)
class Measured:
    """What came of a version.

    Attributes:
        place: Where it was measured.
        results: Its figures, None if there are none.
        failure: What went wrong, one line; None if nothing did.
    """

    place: Place
    results: Results | None
    failure: str | None


def read_versions(text: str) -> tuple[str, ...]:
    """Read which versions are wanted.

    Args:
        text: Such as "3.7,3.8" or "3.8.7,3.8.8".

    Returns:
        Each version once, in the order given.

    Raises:
        VersionError: If one of them is none, or one that Flowgauge is not for.
    """
    versions = tuple(dict.fromkeys(each.strip() for each in text.split(",")))
    for version in versions:
        if not re.fullmatch(r"[0-9]+\.[0-9]+(\.[0-9]+)?", version):
            raise VersionError(f'--prefect {text}: "{version}" is no version; give 3.7,3.8')
        if not _LEAST <= tuple(map(int, version.split("."))) < _BELOW:
            raise VersionError(f"--prefect {text}: {version} is not at least 3.6 and below 4")
    return versions


def find_project(folder: Path) -> Path:
    """Make sure that a folder is a project whose benchmarks can be measured.

    Args:
        folder: The project's folder.

    Returns:
        Its absolute path.

    Raises:
        VersionError: If it has no benchmarks, or no dependency group of what they need.
        OSError: If its pyproject.toml cannot be read.
    """
    project = folder.resolve()
    if not (project / "benchmarks").is_dir() or not (project / "pyproject.toml").is_file():
        raise VersionError(f"{project} has no benchmarks and pyproject.toml: run it in a checkout")
    try:
        described = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    except ValueError as error:
        raise VersionError(f"{project / 'pyproject.toml'} is no TOML: {error}") from None
    if _GROUP not in described.get("dependency-groups", {}):
        raise VersionError(f'{project / "pyproject.toml"} has no dependency group "{_GROUP}"')
    return project


def find_uv() -> str:
    """Return the path of uv.

    Raises:
        VersionError: If it is not installed.
    """
    if (uv := shutil.which("uv")) is None:
        raise VersionError("uv, which makes the environments, is missing: pip install uv")
    return uv


def making(uv: str, project: Path, place: Place) -> tuple[tuple[str, ...], ...]:
    """Return the commands that make a version's environment, for `make_environment`."""
    python = str(place.python)
    return (
        (uv, "venv", "--allow-existing", "--python", sys.executable, str(place.python.parents[1])),
        (
            *(uv, "pip", "install", "--python", python, "--editable", str(project)),
            *("--group", f"{project / 'pyproject.toml'}:{_GROUP}"),
            # Stronger than what the project and prefect-dask ask of Prefect themselves.
            *("--overrides", str(place.folder / "prefect.txt")),
        ),
    )


def measuring(place: Place, only: str | None) -> tuple[str, ...]:
    """Return the command that measures a version; `only` is an expression for pytest's `-k`."""
    chosen = () if only is None else ("-k", only)
    folder = str(place.folder)
    options = ("--benchmark-only", "-p", "no:cacheprovider", "--flow-report-dir", folder)
    return (str(place.python), "-m", "pytest", "benchmarks", *options, *chosen)


def make_environment(uv: str, project: Path, place: Place) -> str | None:
    """Install the project, what its benchmarks need, and a version of Prefect.

    Args:
        uv: Its path.
        project: The project's folder, absolute.
        place: Where the environment goes; one that is there is brought up to date.

    Returns:
        What went wrong, one line; None if nothing did.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    place.log.unlink(missing_ok=True)
    series = f"{place.version}.*" if place.version.count(".") == 1 else place.version
    (place.folder / "prefect.txt").write_text(f"prefect=={series}\n", encoding="utf-8")
    for command in making(uv, project, place):
        # In the project's folder uv would take the project's pins, of which one is Prefect's.
        if _logged(command, Path(project.anchor), place.log):
            return f"Prefect {place.version} could not be installed: {place.log} says why"
    return None


def measure(project: Path, place: Place, only: str | None = None) -> Measured:
    """Run the benchmarks in a version's environment.

    Args:
        project: The project's folder, absolute.
        place: Where the version is, and its report goes.
        only: An expression for pytest's `-k`; None for all benchmarks.

    Returns:
        The figures, also where only some benchmarks ended well.
    """
    file = place.folder / "results.json"
    file.unlink(missing_ok=True)
    status = _logged(measuring(place, only), project, place.log)
    try:
        results = Results.load(file) if file.exists() else None
    except ResultsError as error:
        return Measured(place, None, f"Prefect {place.version}: {error}")
    if results is None:
        failure = f"Prefect {place.version} was not measured: {place.log} says why"
        return Measured(place, None, failure)
    some = f"Prefect {place.version}: not all benchmarks ended well: {place.log} says which"
    return Measured(place, results, some if status else None)


def _logged(command: Sequence[str], folder: Path, log: Path) -> int:
    """Run a command, add what it prints to a file, and return its exit status."""
    # A run within this one would share its zygote.
    environment = {name: text for name, text in os.environ.items() if name != ZYGOTE}
    with (
        log.open("ab") as written,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            return process.wait()
        except KeyboardInterrupt:
            # It was interrupted, too, and writes down what it has measured.
            process.wait()
            raise
