# SPDX-License-Identifier: Apache-2.0
"""The outcome of pytest runs, read from the JUnit files that they wrote."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

SLOWEST = 20


@dataclass(frozen=True)
class Case:
    """One test of a pytest run.

    Attributes:
        name: The file and the test.
        seconds: How long it took.
        failure: The first line of the failure, empty if it passed.
    """

    name: str
    seconds: float
    failure: str


def cases(file: Path) -> Iterator[Case]:
    """Yield the tests of a pytest run; an incomplete file yields none."""
    try:
        root = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError):
        return
    for case in root.iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '')}"
        failure = next((part for part in case if part.tag in ("failure", "error")), None)
        message = "" if failure is None else (failure.get("message") or failure.tag).strip()
        yield Case(name, float(case.get("time") or 0), message.partition("\n")[0])


def main() -> None:
    """Print which tests of the runs in a folder failed, and which took longest."""
    runs = {file.stem: list(cases(file)) for file in sorted(Path(sys.argv[1]).glob("*.xml"))}
    failed = [(run, case) for run, tests in runs.items() for case in tests if case.failure]
    print(f"\nTests that failed: {len(failed) or 'none'}")
    for run, case in failed:
        print(f"  {run}: {case.name}\n    {case.failure[:160]}")
    print(f"\nThe {SLOWEST} slowest tests:")
    durations = [(case.seconds, run, case.name) for run, tests in runs.items() for case in tests]
    for seconds, run, name in sorted(durations, reverse=True)[:SLOWEST]:
        print(f"  {seconds:6.1f} s  {run}: {name}")


if __name__ == "__main__":
    main()
