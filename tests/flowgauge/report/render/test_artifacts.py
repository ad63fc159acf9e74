# SPDX-License-Identifier: Apache-2.0
"""A report on a Prefect server: what was measured can be read back from its artifacts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowgauge.cli.app import run
from flowgauge.report.model.labels import groups
from flowgauge.report.render.artifacts import KEY, publish
from flowgauge.results.rows import Results
from flowgauge.waiting import patience
from tests.flowgauge.plugin.test_recorder import BENCHMARK


def latest(api: str, key: str) -> Any:
    """Return the data of the newest artifact with a key, as the server returns it."""
    found = httpx.get(f"{api}/artifacts/{key}/latest").raise_for_status().json()
    assert found["key"] == key
    return found["data"] if found["type"] == "markdown" else json.loads(found["data"])


def test_all_figures_can_be_read_back(prefect_server: str, sample: Results) -> None:
    """The answers are one artifact, and each group is a table with all of its rows."""
    keys = publish(sample)
    assert keys == (KEY, *(f"flowgauge-{group.name}" for group in groups(sample.rows)))
    said = latest(prefect_server, KEY)
    assert "A task costs least on sequential, 4.1 ms" in said
    # Charts cannot be linked to: they are in the folder of the report.
    assert "charts/" not in said
    assert "Not measured in this run." not in said
    rows = latest(prefect_server, "flowgauge-patterns")
    (row,) = (r for r in rows if (r["measured"], r["runner"]) == ("caching/scope", "threads"))
    assert (row["median"], row["ratio"]) == ("16 ms", "×52")
    assert len(rows) == sum(row.group == "patterns" for row in sample.rows)


def test_a_later_report_is_the_newest(prefect_server: str, sample: Results) -> None:
    """A report that is published later replaces the earlier one as the latest."""
    publish(sample)
    publish(Results(sample.fingerprint, sample.rows[:1]))
    assert len(latest(prefect_server, "flowgauge-features")) == 1


@pytest.mark.parametrize(
    ("api", "told"),
    [
        ("", "flowgauge: no Prefect server to publish to: prefect config set PREFECT_API_URL="),
        ("http://127.0.0.1:9/api", "flowgauge: http://127.0.0.1:9/api cannot be reached: "),
    ],
)
def test_a_missing_server_is_reported_in_one_line(
    sample: Results, tmp_path: Path, api: str, told: str
) -> None:
    """A server that is not set or does not answer is reported in one line, with status 2."""
    sample.save(tmp_path / "results.json")
    done = subprocess.run(
        [sys.executable, "-m", "flowgauge", "publish", str(tmp_path)],
        env=os.environ | {"PREFECT_API_URL": api, "PREFECT_CLIENT_MAX_RETRIES": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(),
    )
    assert done.returncode == 2
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1


def test_missing_results_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing results file is reported before any server is asked."""
    assert run(["publish", "missing.json"]) == 2
    assert "missing.json cannot be read" in capsys.readouterr().err


@pytest.mark.e2e
def test_a_benchmark_run_publishes_to_the_users_server(
    prefect_server: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--flow-publish-artifacts publishes to the server that the user has set, not to the run's."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    pytester.makeini("[pytest]\nflowgauge = true")
    pytester.makepyfile(BENCHMARK)
    result = pytester.runpytest_subprocess("--benchmark-only", "--flow-publish-artifacts")
    result.assert_outcomes(passed=1, skipped=1)
    assert "flowgauge-features" in result.stdout.str()
    (row,) = latest(prefect_server, "flowgauge-features")
    assert (row["measured"], row["relative to"]) == ("sum", "sum of a list")
