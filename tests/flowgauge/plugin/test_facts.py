# SPDX-License-Identifier: Apache-2.0
"""The facts in the headers of patterns are checked against the installed Prefect."""

from __future__ import annotations

import json

import pytest

from flowgauge.compat.tested_prefect import installed_prefect
from flowgauge.plugin import facts
from tests.flowgauge.catalogue.test_headers import PATTERN, placed

INSTALLED = f"{installed_prefect().major}.{installed_prefect().minor}"
PROOFS = """
import pytest

@pytest.mark.fact("retries/backoff", "late")
def test_late():
    assert {holds}
"""


def run(pytester: pytest.Pytester, versions: str, holds: bool) -> pytest.RunResult:
    """Run the test of a fact whose header names these versions."""
    pytester.makeini("[pytest]\nflowgauge = true\naddopts = -p no:xdist")
    section = f"Prefect:\n    late ({versions}): runs start.\n\nNot for:"
    placed(pytester.path / "patterns", PATTERN.replace("Not for:", section))
    pytester.makepyfile(PROOFS.format(holds=holds))
    return pytester.runpytest_subprocess("-rxX")


def status(pytester: pytest.Pytester) -> tuple[str, str]:
    """Return the text and the status of the fact in the matrix that a run wrote."""
    matrix = json.loads((pytester.path / "reports/latest/guarantees.json").read_text())
    ((row,),) = ([r for r in p["rows"] if r["id"] == "late"] for p in matrix["patterns"])
    return row["text"], row["cells"][0]["status"]


def test_a_fact_holds_in_its_versions(pytester: pytest.Pytester) -> None:
    """The test of a fact passes if Prefect does what the fact says, and the matrix has its text."""
    result = run(pytester, f"1.2, {INSTALLED}", holds=True)
    result.assert_outcomes(passed=1)
    assert status(pytester) == (f"Prefect 1.2, {INSTALLED}: runs start.", "proved")


def test_a_fact_that_is_out_of_date_is_reported(pytester: pytest.Pytester) -> None:
    """If Prefect does something else, the failure says which header is out of date."""
    result = run(pytester, f"1.2, {INSTALLED}", holds=False)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"E *FactOutdatedError: Prefect {installed_prefect()} does not do what the header"
            f' of retries/backoff says: the fact "late" (1.2, {INSTALLED}) is out of date'
        ]
    )
    assert status(pytester)[1] == "failed"


def test_a_fact_does_not_hold_in_tested_versions_that_it_leaves_out(
    pytester: pytest.Pytester,
) -> None:
    """In a tested version that a header does not name, the fact must not hold."""
    run(pytester, "1.2", holds=False).assert_outcomes(xfailed=1)
    assert status(pytester)[1] == "does not hold"
    result = run(pytester, "1.2", holds=True)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [f'*Prefect {INSTALLED} is not among the versions of "late" in retries/backoff*']
    )


def test_a_fact_is_expected_to_hold_in_an_untested_prefect(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a version that was not tested yet, a fact is expected to hold."""
    monkeypatch.setattr(facts, "is_tested", lambda version: False)
    item = pytester.getitem(PROOFS.format(holds=True), "test_late")
    section = "Prefect:\n    late (1.2): runs start.\n\nNot for:"
    root = placed(pytester.path / "patterns", PATTERN.replace("Not for:", section))
    (mark,) = item.iter_markers("fact")
    facts.Facts(root).bind(item, mark)
    assert item.get_closest_marker("xfail") is None
    assert "(1.2) is out of date" in str(facts.outdated_fact(item))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("retries/backoff", '*: the header of retries/backoff has no "late" under "Prefect:"'),
        ("retries/forwards", 'ERROR: no pattern "retries/forwards": *'),
    ],
)
def test_an_unknown_fact_is_reported(pytester: pytest.Pytester, name: str, told: str) -> None:
    """A mark that names an unknown fact or pattern ends the pytest run with a usage error."""
    pytester.makeini("[pytest]\nflowgauge = true\naddopts = -p no:xdist")
    placed(pytester.path / "patterns")
    pytester.makepyfile(PROOFS.format(holds=True).replace("retries/backoff", name))
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([told])


def test_without_a_catalogue_the_test_of_a_fact_is_an_ordinary_test(
    pytester: pytest.Pytester,
) -> None:
    """In a project without patterns, the test of a fact passes like any other."""
    pytester.makeini("[pytest]\nflowgauge = true\naddopts = -p no:xdist")
    pytester.makepyfile(PROOFS.format(holds=True))
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_failure_unrelated_to_a_fact_is_left_as_it_is(request: pytest.FixtureRequest) -> None:
    """The failure of a test without a fact is left as it is."""
    assert facts.outdated_fact(request.node) is None
