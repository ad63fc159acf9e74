# SPDX-License-Identifier: Apache-2.0
"""Whoever breaks a pattern breaks a test of the guarantee that is broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowgauge.catalogue import catalogue_root, load
from flowgauge.mutants import Mutant, mutants, proving_tests

ROOT = catalogue_root(Path(__file__).parent).parent
TESTS = ROOT / "tests" / "patterns"
NEEDED = ("conftest.py", "pyproject.toml", "README.md", "flowgauge", "patterns", "tests")


def copied(folder: Path) -> Path:
    """Copy what the tests of a pattern need, and return the copy."""
    folder.mkdir()
    for name in NEEDED:
        if (ROOT / name).is_dir():
            left_out = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.mark.nightly
@pytest.mark.parametrize(
    "mutant", mutants(load(ROOT / "patterns"), TESTS), ids=lambda m: f"{m.pattern}-{m.name}"
)
def test_a_mutant_fails_a_test_of_the_guarantee_that_it_breaks(
    tmp_path: Path, mutant: Mutant
) -> None:
    """A named mutant of a pattern fails at least one test of the guarantee that it breaks."""
    copy = copied(tmp_path / "copy")
    pattern = next(p for p in load(copy / "patterns") if p.name == mutant.pattern)
    mutant.apply(pattern.path.parent)
    nodes = [f"tests/patterns/{node}" for node in proving_tests(mutant, TESTS)]
    assert nodes, "no test of this guarantee"
    options = ("-x", "-q", "-n0", "-m", "not nightly", "--runners", mutant.runner)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *nodes],
        cwd=copy,
        # Or the plugin, and the subprocesses of tests, would come from the installed package.
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout + ended.stderr
