# SPDX-License-Identifier: Apache-2.0
"""What came of runs of pytest, read from the JUnit files that they wrote."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

SLOWEST = 20


@dataclass(frozen=True)
class Case:
    """One test of a run; `failure` is the first line of what went wrong, empty if nothing did."""

    name: str
    seconds: float
    failure: str


def cases(file: Path) -> Iterator[Case]:
    """Read the tests of a run; a file that is not whole has none."""
    try:
        root = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError):
        return
    for case in root.iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '')}"
        wrong = next((found for found in case if found.tag in ("failure", "error")), None)
        told = "" if wrong is None else (wrong.get("message") or wrong.tag).strip()
        yield Case(name, float(case.get("time") or 0), told.partition("\n")[0])


def main() -> None:
    """Print which tests of all runs in a folder failed, and which took longest."""
    runs = {file.stem: list(cases(file)) for file in sorted(Path(sys.argv[1]).glob("*.xml"))}
    failed = [(run, case) for run, found in runs.items() for case in found if case.failure]
    print(f"\nTests that failed: {len(failed) or 'none'}")
    for run, case in failed:
        print(f"  {run}: {case.name}\n    {case.failure[:160]}")
    print(f"\nThe {SLOWEST} slowest tests:")
    every = [(case.seconds, run, case.name) for run, found in runs.items() for case in found]
    for seconds, run, name in sorted(every, reverse=True)[:SLOWEST]:
        print(f"  {seconds:6.1f} s  {run}: {name}")


if __name__ == "__main__":
    main()
