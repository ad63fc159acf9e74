# SPDX-License-Identifier: Apache-2.0
"""The results of a run are found by the name of a file, a folder or a commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flowgauge.results.rows import Results, ResultsError
from flowgauge.results.sources import COMMITTED, find_results


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the results file of a repository with one run committed and another on disk."""
    file = tmp_path / COMMITTED
    file.parent.mkdir(parents=True)
    Results({"when": "then"}, ()).save(file)
    monkeypatch.chdir(tmp_path)
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "measure"]):
        subprocess.run(["git", *words], check=True)
    Results({"when": "now"}, ()).save(file)
    return file


@pytest.mark.parametrize(
    ("name", "when"),
    [("reports/reference/results.json", "now"), ("reports/reference", "now"), ("HEAD", "then")],
)
@pytest.mark.usefixtures("repository")
def test_each_name_is_found(name: str, when: str) -> None:
    """A file or a folder gives the results on disk, a commit those that were committed."""
    assert find_results(name).fingerprint["when"] == when


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "HEAD~7",
            "HEAD~7 is neither a file, a folder, nor a commit that contains reports/reference",
        ),
        ("--output=stolen", "--output=stolen is neither a file"),
        ("missing.json", "missing.json cannot be read"),
        ("reports", "results.json cannot be read"),
    ],
)
@pytest.mark.usefixtures("repository")
def test_an_unknown_name_is_reported(name: str, says: str, tmp_path: Path) -> None:
    """A name that is not a run is reported in one line, and nothing is written."""
    with pytest.raises(ResultsError, match=r"[^\n]*") as caught:
        find_results(name)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "stolen").exists()
