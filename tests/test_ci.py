# SPDX-License-Identifier: Apache-2.0
"""What `.ci/` does with the suites: every step is run, and failures are listed at the end."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = """#!/usr/bin/env bash
[ "$*" = "run --no-sync python .ci/outcome.py reports/latest/ci" ] && exec {python} "${{@:4}}"
echo "$*" >>steps
[ "$*" != "{fails}" ]
"""
STEPS = [
    "run ruff format --check .",
    "run ruff check .",
    "run mypy --no-incremental",
    "run lint-imports",
    "tool run pydoclint@0.12.0 flowgauge patterns benchmarks docs",
    "run sphinx-build -W --keep-going -q docs reports/latest/docs",
    "run pytest",
    "run pytest -m e2e",
    "run pytest --benchmark-only",
]


@pytest.mark.parametrize("fails", ["", "run ruff check .", "run pytest --benchmark-only"])
def test_a_failed_step_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """All steps run in order, whatever fails, and a failed step fails the whole run."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    shutil.copy(ROOT / "README.md", tmp_path)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (
        ("uv", UV.format(python=sys.executable, fails=fails)),
        ("pip", "#!/bin/sh\n"),
        ("chromium", "#!/bin/sh\n"),
    ):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    done = subprocess.run(
        ["bash", tmp_path / ".ci" / "run"], capture_output=True, text=True, check=False
    )
    assert (tmp_path / "steps").read_text().splitlines() == STEPS
    assert done.returncode == bool(fails), done.stderr
    assert done.stdout.count("FAILED with status 1") == bool(fails)
    assert done.stdout.count("  passed") == len(STEPS) - bool(fails)


def test_what_failed_and_what_took_longest_is_listed(pytester: pytest.Pytester) -> None:
    """The output lists the tests that failed in any of the runs, and all tests, slowest first."""
    pytester.makepyfile(
        "import pytest, time\n"
        "@pytest.fixture\n"
        "def broken(): raise ValueError('no fixture')\n"
        "def test_slow(): time.sleep(0.2)\n"
        "def test_wrong(): assert 'one' == 'two'\n"
        "def test_unready(broken): pass\n"
    )
    for name in ("tests", "e2e"):
        options = ("-n0", "-p", "no:cacheprovider", f"--junitxml=results/{name}.xml")
        pytester.runpytest_subprocess(*options, *(["-k", "slow"] if name == "e2e" else []))
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "outcome.py", "results"],
        capture_output=True,
        text=True,
        check=True,
    )
    file = Path(__file__).stem.replace(
        "test_ci", "test_what_failed_and_what_took_longest_is_listed"
    )
    failed, slowest = done.stdout.split("The 20 slowest tests:")
    assert failed.split("\n")[1:6] == [
        "Tests that failed: 2",
        f"  tests: {file}.py::test_wrong",
        "    AssertionError: assert 'one' == 'two'",
        f"  tests: {file}.py::test_unready",
        '    failed on setup with "ValueError: no fixture"',
    ]
    names = [line.split("::")[1] for line in slowest.strip().splitlines()]
    assert names[:2] == ["test_slow", "test_slow"]
    assert len(names) == 4


def test_the_table_of_a_soak_covers_the_whole_log(tmp_path: Path) -> None:
    """Rounds of earlier calls count: a test that failed in any of them gives status 1."""
    log = tmp_path / "soak.jsonl"
    words = [sys.executable, str(ROOT / ".ci" / "soak"), "0", "--log", str(log)]

    def told(*failures: list[str]) -> subprocess.CompletedProcess[str]:
        shared = {"at": "now", "suite": "pytest", "slow": "one core", "seconds": 7, "status": 1}
        rows = [shared | {"failures": dict.fromkeys(names, "wrong")} for names in failures]
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return subprocess.run(words, capture_output=True, text=True, check=False)

    good = told([], [])
    assert good.returncode == 0, good.stderr
    assert "No test failed." in good.stdout
    bad = told(["a.py::test_often"], [], ["a.py::test_once", "a.py::test_often"])
    assert bad.returncode == 1
    table = bad.stdout.partition("failures  test\n")[2].split()
    assert table == ["2", "a.py::test_often", "1", "a.py::test_once"]


@pytest.mark.parametrize("script", ["mutation", "pin", "soak", "outcome.py"])
def test_scripts_import_what_exists(script: str) -> None:
    """What a script imports from flowgauge exists; no other check covers the scripts."""
    tree = ast.parse((ROOT / ".ci" / script).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if node.module and node.module.startswith("flowgauge"):
            module = importlib.import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []
