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
    """An error that a person can fix; the message is one line."""


@dataclass(frozen=True)
class Place:
    """Where one version of Prefect is measured.

    Attributes:
        version: The version of Prefect as the user gave it, such as "3.7".
        folder: Holds its report, its environment and its log.
    """

    version: str
    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "environment" / "bin" / "python"

    @property
    def log(self) -> Path:
        """The file with what uv and pytest printed."""
        return self.folder / "log.txt"


@dataclass(frozen=True)
class Measured:
    """The outcome of measuring one version.

    Attributes:
        place: Where it was measured.
        results: Its figures; None if there are none.
        failure: What went wrong, in one line; None if nothing did.
    """

    place: Place
    results: Results | None
    failure: str | None


def read_versions(text: str) -> tuple[str, ...]:
    """Parse a list of Prefect versions.

    Args:
        text: Such as "3.8,3.9" or "3.8.7,3.8.8".

    Returns:
        Each version once, in the order given.

    Raises:
        VersionError: If one of them is not a version, or one that Flowgauge does not support.
    """
    versions = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for version in versions:
        if not re.fullmatch(r"[0-9]+\.[0-9]+(\.[0-9]+)?", version):
            raise VersionError(
                f'--prefect {text}: "{version}" is not a version; write, for example, 3.8,3.9'
            )
        if not _LEAST <= tuple(map(int, version.split("."))) < _BELOW:
            raise VersionError(f"--prefect {text}: {version} is not at least 3.6 and below 4")
    return versions


def find_project(folder: Path) -> Path:
    """Check that a folder is a project whose benchmarks can be run.

    Args:
        folder: The project's folder.

    Returns:
        Its absolute path.

    Raises:
        VersionError: If it has no benchmarks, or no dependency group for them.
        OSError: If its pyproject.toml cannot be read.
    """
    project = folder.resolve()
    if not (project / "benchmarks").is_dir() or not (project / "pyproject.toml").is_file():
        raise VersionError(
            f"{project} has no benchmarks folder or no pyproject.toml: run this in a checkout"
        )
    try:
        described = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    except ValueError as error:
        raise VersionError(f"{project / 'pyproject.toml'} is not valid TOML: {error}") from None
    if _GROUP not in described.get("dependency-groups", {}):
        raise VersionError(f'{project / "pyproject.toml"} has no dependency group "{_GROUP}"')
    return project


def find_uv() -> str:
    """Return the path of uv.

    Returns:
        Its absolute path.

    Raises:
        VersionError: If it is not installed.
    """
    if (uv := shutil.which("uv")) is None:
        raise VersionError("uv, which makes the environments, is missing: pip install uv")
    return uv


def installing(uv: str, project: Path, place: Place) -> tuple[tuple[str, ...], ...]:
    """Return the commands that create a version's environment, for `make_environment`."""
    python = str(place.python)
    return (
        (uv, "venv", "--allow-existing", "--python", sys.executable, str(place.python.parents[1])),
        (
            *(uv, "pip", "install", "--python", python, "--editable", str(project)),
            *("--group", f"{project / 'pyproject.toml'}:{_GROUP}"),
            # Overrides the versions of Prefect that the project and prefect-dask require.
            *("--overrides", str(place.folder / "prefect.txt")),
        ),
    )


def measuring(place: Place, only: str | None) -> tuple[str, ...]:
    """Return the command that measures a version; `only` is an expression for pytest's `-k`."""
    selection = () if only is None else ("-k", only)
    folder = str(place.folder)
    options = ("--benchmark-only", "-p", "no:cacheprovider", "--flow-report-dir", folder)
    return (str(place.python), "-m", "pytest", "benchmarks", *options, *selection)


def make_environment(uv: str, project: Path, place: Place) -> str | None:
    """Install the project, the dependencies of its benchmarks, and a version of Prefect.

    Args:
        uv: The path of uv.
        project: The project's folder, absolute.
        place: Where the environment goes; an existing one is updated.

    Returns:
        What went wrong, in one line; None if nothing did.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    place.log.unlink(missing_ok=True)
    series = f"{place.version}.*" if place.version.count(".") == 1 else place.version
    (place.folder / "prefect.txt").write_text(f"prefect=={series}\n", encoding="utf-8")
    for command in installing(uv, project, place):
        # In the project's folder uv would apply the project's pins, also the one for Prefect.
        if _logged(command, Path(project.anchor), place.log):
            return f"Prefect {place.version} could not be installed: see {place.log}"
    return None


def measure(project: Path, place: Place, only: str | None = None) -> Measured:
    """Run the benchmarks in a version's environment.

    Args:
        project: The project's folder, absolute.
        place: Where the version is installed and its report goes.
        only: An expression for pytest's `-k`; None for all benchmarks.

    Returns:
        The figures, even if only some benchmarks passed.
    """
    file = place.folder / "results.json"
    file.unlink(missing_ok=True)
    status = _logged(measuring(place, only), project, place.log)
    try:
        results = Results.load(file) if file.exists() else None
    except ResultsError as error:
        return Measured(place, None, f"Prefect {place.version}: {error}")
    if results is None:
        failure = f"Prefect {place.version} was not measured: see {place.log}"
        return Measured(place, None, failure)
    failures = f"Prefect {place.version}: some benchmarks failed: see {place.log}"
    return Measured(place, results, failures if status else None)


def _logged(command: Sequence[str], folder: Path, log: Path) -> int:
    """Run a command, append its output to a file, and return its exit status."""
    # With this variable the inner pytest run would share this run's zygote.
    environment = {name: text for name, text in os.environ.items() if name != ZYGOTE}
    with (
        log.open("ab") as output,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The child was interrupted, too, and saves what it has measured.
            process.wait()
            raise
