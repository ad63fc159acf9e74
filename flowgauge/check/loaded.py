# SPDX-License-Identifier: Apache-2.0
"""What is known about a file after it was imported, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Target:
    """What is imported.

    Attributes:
        folder: The working directory, where `prefect deploy` would run.
        name: The file's path, or for an entrypoint such as `package.module:flow` the module.
        is_file: Whether it is a file.
    """

    folder: Path
    name: str
    is_file: bool = True


@dataclass(frozen=True)
class Failure:
    """Why something does not load, or what it must not do while it does.

    Attributes:
        line: The line of the imported file that led to it.
        subject: What it is about, such as `flow 'etl'`; empty if it is the file.
        what: What is wrong.
        mend: What to do.
        elsewhere: The line of another file of the project where it happened, such as `x.py:3`;
            empty if it happened in the imported file.
    """

    line: int
    subject: str
    what: str
    mend: str
    elsewhere: str = ""


@dataclass(frozen=True)
class LoadedFlow:
    """A flow.

    Attributes:
        name: Its name in Prefect's server.
        file: The file that defines its function.
        line: The line of the definition, or of its first decorator.
        path: Where it is in the module that was imported: `etl` or `Shop.refresh`.
        schema: The JSON schema of its parameters.
        takes_more: Whether its function has `**kwargs`.
        faults: What is wrong with its parameters: what, and what to do.
    """

    name: str
    file: str
    line: int
    path: str
    schema: dict[str, Any]
    takes_more: bool = False
    faults: tuple[tuple[str, str], ...] = ()

    @property
    def definition(self) -> tuple[str, str, int]:
        """What tells flows apart: the name, the file and the line."""
        return self.name, self.file, self.line


@dataclass(frozen=True)
class LoadedSchedule:
    """A schedule of a deployment: whether it is active, and the parameters it gives."""

    active: bool
    parameters: dict[str, Any]


@dataclass(frozen=True)
class LoadedDeployment:
    """A deployment that Python code makes when it is imported.

    Attributes:
        line: The line of the variable that holds it.
        name: Its name.
        flow_name: The name of its flow.
        parameters: Its parameters, as they are sent to a server.
        schedules: Its schedules.
        enforce: Whether the server checks its parameters.
    """

    line: int
    name: str
    flow_name: str
    parameters: dict[str, Any]
    schedules: tuple[LoadedSchedule, ...] = ()
    enforce: bool = True


@dataclass(frozen=True)
class Loaded:
    """The outcome of one import.

    Attributes:
        failures: Why it did not load, or what it did that it must not do.
        flows: The flows of the module.
        deployments: The deployments of the module.
        objects: For each object that an entrypoint names, what it is: its flow, or the kind of
            thing it is instead, or an empty string if there is no such object.
        package_name: For a file that can be imported as a part of its package only, its name
            there; otherwise empty.
    """

    failures: tuple[Failure, ...] = ()
    flows: tuple[LoadedFlow, ...] = ()
    deployments: tuple[LoadedDeployment, ...] = ()
    objects: tuple[tuple[str, LoadedFlow | str], ...] = ()
    package_name: str = ""
