# SPDX-License-Identifier: Apache-2.0
"""Whoever breaks a pattern breaks a test of the guarantee that is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.catalogue.catalogue import catalogue_root, load_catalogue
from flowgauge.catalogue.mutants import Mutant, copy_checkout, mutants, proving_tests, run_tests

ROOT = catalogue_root(Path(__file__).parent).parent
TESTS = ROOT / "tests" / "patterns"
HANGS = 500
"""Seconds that no tests of one guarantee take; less than a test may."""


@pytest.mark.nightly
@pytest.mark.parametrize(
    "mutant",
    mutants(load_catalogue(ROOT / "patterns"), TESTS),
    ids=lambda m: f"{m.pattern}-{m.name}",
)
def test_a_mutant_fails_a_test_of_the_guarantee_that_it_breaks(
    tmp_path: Path, mutant: Mutant
) -> None:
    """A named mutant of a pattern fails at least one test of the guarantee that it breaks."""
    copy = copy_checkout(ROOT, tmp_path / "copy")
    pattern = next(p for p in load_catalogue(copy / "patterns") if p.name == mutant.pattern)
    mutant.apply(pattern.path.parent)
    nodes = [f"tests/patterns/{node}" for node in proving_tests(mutant, TESTS)]
    assert nodes, "no test of this guarantee"
    # One that hangs is told as such, and not by the end of this process.
    ended = run_tests(copy, nodes, mutant.runner or "threads", seconds=HANGS)
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout + ended.stderr
