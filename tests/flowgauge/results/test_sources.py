# SPDX-License-Identifier: Apache-2.0
"""The results of a run are found by a file, a folder or a commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flowgauge.results.rows import Results, ResultsError
from flowgauge.results.sources import COMMITTED, find_results


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a repository with a reference run in its only commit, and another one in its folder."""
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
    """A file and a folder hold what they hold now, a commit what it held then."""
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
def test_what_is_none_is_told(name: str, says: str, tmp_path: Path) -> None:
    """A name that is no run is one line, and nothing is written."""
    with pytest.raises(ResultsError, match=r"[^\n]*") as caught:
        find_results(name)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "stolen").exists()
