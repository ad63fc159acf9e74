# SPDX-License-Identifier: Apache-2.0
"""This repository's own pytest settings: what they must not break, and what they leave out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowgauge.waiting import patience

ROOT = Path(__file__).parents[1]
ASKED = {
    "-h": "usage:",
    "--help": "--flow-dask-address=ADDRESS",
    "--version": "pytest 9|pytest 8",
    "--markers": "guarantee",
    "--fixtures": "prefect_server",
    "--co": "1 test collected|1/1 tests",
    "--setup-plan": "SETUP",
    "--cache-show": "cachedir",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a project with this repository's settings, one test and one benchmark."""
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in ("tests", "benchmarks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tests" / "test_plain.py").write_text("def test_plain(): pass\n")
    (tmp_path / "benchmarks" / "test_timed.py").write_text(
        "def test_timed(benchmark): benchmark(len, '')\n"
    )
    return tmp_path


def started(checkout: Path, *words: str) -> subprocess.Popen[str]:
    """Start pytest in a project."""
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *words],
        cwd=checkout,
        # Not as a part of the surrounding run, if that is distributed.
        env={name: text for name, text in os.environ.items() if "XDIST" not in name},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_pytest_answers_what_it_is_asked(checkout: Path) -> None:
    """Options that make pytest show something instead of running tests give no traceback."""
    (checkout / "benchmarks" / "test_timed.py").unlink()
    asked = {option: started(checkout, option) for option in ASKED}
    for option, process in asked.items():
        printed, _ = process.communicate(timeout=patience())
        assert process.returncode == 0, (option, printed)
        assert re.search(ASKED[option], printed), (option, printed)
        assert "Traceback (most" not in printed, (option, printed)


def test_benchmark_only_imports_only_benchmarks(checkout: Path) -> None:
    """`--benchmark-only` imports no file of tests, unless their folder is named."""
    (checkout / "tests" / "test_plain.py").write_text("raise RuntimeError('read')\n")
    runs = [
        (0, started(checkout, "--benchmark-only", "--co", "-q")),
        (2, started(checkout, "--co", "-q")),
        (2, started(checkout, "--benchmark-only", "--co", "-q", "tests")),
    ]
    for status, process in runs:
        printed, _ = process.communicate(timeout=patience())
        assert process.returncode == status, printed


FACTS = """
import pytest

@pytest.mark.fact("a/pattern", "id")
def test_fact(): pass

@pytest.mark.fact("a/pattern", "id")
@pytest.mark.e2e
def test_slow_fact(): pass

@pytest.mark.fact("a/pattern", "id")
@pytest.mark.guarantee("a/pattern", "id")
def test_both(): pass
"""


@pytest.mark.parametrize(
    ("words", "collected"),
    [
        ([], {"both"}),
        (["-m", "nightly"], {"fact"}),
        (["-m", "e2e"], {"slow_fact"}),
        (["tests/test_facts.py"], {"both", "fact"}),
    ],
    ids=["plain", "nightly", "e2e", "a-file"],
)
def test_facts_are_proved_nightly(checkout: Path, words: list[str], collected: set[str]) -> None:
    """What is only a fact about Prefect is left to the nightly suite, unless its file is named."""
    shutil.copy(ROOT / "tests" / "conftest.py", checkout / "tests")
    (checkout / "tests" / "test_plain.py").unlink()
    (checkout / "benchmarks" / "test_timed.py").unlink()
    (checkout / "tests" / "test_facts.py").write_text(FACTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        printed, _ = started(checkout, "--co", "-q", *words).communicate(timeout=patience())
    assert set(re.findall(r"::test_(\w+)", printed)) == collected, printed
