# SPDX-License-Identifier: Apache-2.0
"""A change that breaks a guarantee of a pattern fails a test of that guarantee."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.catalogue.catalogue import catalogue_root, load_catalogue
from flowgauge.catalogue.mutants import Mutant, copy_checkout, mutants, proving_tests, run_tests

ROOT = catalogue_root(Path(__file__).parent).parent
TESTS = ROOT / "tests" / "patterns"
HANGS = 500
"""More seconds than the tests of any guarantee take, but fewer than a test may take."""


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
    # A mutant that hangs is reported as such, before this process is ended.
    ended = run_tests(copy, nodes, mutant.runner or "threads", seconds=HANGS)
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout + ended.stderr
