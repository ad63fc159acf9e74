# SPDX-License-Identifier: Apache-2.0
"""What a check found: problems, each with its place, and how much was checked."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong in a project.

    Attributes:
        path: The file, relative to the working directory if it is inside it.
        line: The line in it, from 1.
        subject: What it is about, such as `flow 'etl'`; empty if it is the file.
        what: What is wrong.
        mend: What to do.
    """

    path: str
    line: int
    subject: str
    what: str
    mend: str

    @property
    def place(self) -> str:
        """The file and the line."""
        return f"{self.path}:{self.line}"

    @property
    def text(self) -> str:
        """What is wrong with what, and what to do, in one line."""
        subject = f"{self.subject}: " if self.subject else ""
        return " ".join(f"{subject}{self.what}; {self.mend}".split())


@dataclass(frozen=True)
class Report:
    """The outcome of a check.

    Attributes:
        problems: What is wrong, in the order of files and lines.
        flows: How many flows were found.
        deployments: How many deployments were found.
        refusal: Why nothing could be checked with the installed Prefect; empty if it could.
    """

    problems: tuple[Problem, ...]
    flows: int
    deployments: int
    refusal: str = ""


def shown(path: str | os.PathLike[str]) -> str:
    """Return how to write a path in a message.

    Args:
        path: An absolute path.

    Returns:
        The path, relative to the working directory if it is inside it.
    """
    here = os.path.join(os.getcwd(), "")
    return os.fspath(path).removeprefix(here)
