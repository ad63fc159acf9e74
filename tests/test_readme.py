# SPDX-License-Identifier: Apache-2.0
"""Everything that the README tells people to type."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from flowgauge.catalogue.marks import Proof, proofs
from flowgauge.catalogue.stamp import unstamped
from flowgauge.waiting import patience

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
RUNNERS = {"task_runner", "runner_name"}


def blocks(language: str, heading: str) -> list[str]:
    """Return the blocks of a language under a heading."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def arguments(command: str) -> list[str]:
    """Return a command of the README as it runs in this environment."""
    words = shlex.split(command)
    if words[:3] == ["uvx", "--from", "flowgauge"]:
        words = ["uv", "run", *words[3:]]
    assert words[:2] == ["uv", "run"], command
    return [str(BIN / words[2]), *words[3:]]


def test_every_command_is_run_by_a_test_or_by_ci() -> None:
    """No block of commands stands in the README that nothing runs."""
    headings = (
        "The two commands",
        "Copying a pattern",
        "Learning Prefect with it",
        "From a notebook to a deployment",
        "Your own flows",
        "Your own cluster",
        "Which task runner?",
        "Reading the numbers",
    )
    known = [block for heading in headings for block in blocks("console", heading)]
    assert known == re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    assert "The two commands" in (ROOT / ".ci" / "run").read_text()
    assert len(blocks("console", "The two commands")) == 2


def test_a_pattern_is_listed_shown_copied_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands to copy a pattern work in the order in which they stand."""
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("console", "Copying a pattern")
    for command in block.splitlines():
        subprocess.run(arguments(command), check=True, capture_output=True, timeout=patience())
    for copied, name in (("backoff", "retries/backoff"), ("tasks_basics", "tasks/basics")):
        text = unstamped((tmp_path / "my_project" / f"{copied}.py").read_text())
        assert text == (ROOT / "patterns" / f"{name}.py").read_text()


def counted(tests: Path) -> str:
    """Return what the README says of how much is proved where."""
    proved: dict[tuple[str, str, str], list[Proof]] = {}
    for proof in proofs(tests):
        proved.setdefault((proof.kind, proof.pattern, proof.id), []).append(proof)
    guarantees = [tests for (kind, *_), tests in proved.items() if kind == "guarantee"]
    plain = [[p for p in tests if not p.marks & {"e2e", "nightly"}] for tests in guarantees]
    on_all = [any(p.fixtures & RUNNERS and "runners" not in p.marks for p in ps) for ps in plain]
    e2e = [
        not ps and any("nightly" not in p.marks for p in tests)
        for ps, tests in zip(plain, guarantees, strict=True)
    ]
    in_plain = sum(map(bool, plain))
    later = len(guarantees) - in_plain - sum(e2e)
    return (
        f"Of its {len(guarantees)} guarantees `pytest` proves {in_plain}, {sum(on_all)} of them on"
        f" each of five task runners; {sum(e2e)} need real servers and workers (`pytest -m e2e`)"
        f"{f', {later} take long' if later else ''}. Beside them stand"
        f" {len(proved) - len(guarantees)} facts about Prefect, with tests of their own."
    )


def test_the_readme_counts_what_is_proved_where() -> None:
    """How many guarantees are proved by which suite, and on all task runners, is true."""
    assert counted(ROOT / "tests" / "patterns") in README


def test_advice_is_had_from_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command asks the committed run where there is no newer one, and names a task runner."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "reference").symlink_to(ROOT / "reports" / "reference")
    monkeypatch.chdir(tmp_path)
    (command,) = blocks("console", "Which task runner?")
    done = subprocess.run(
        arguments(command.strip()), check=True, capture_output=True, text=True, timeout=patience()
    )
    assert done.stdout.startswith("costs from reports/reference/results.json, measured ")
    # Which one of those whose tasks run in processes, the last reference run says.
    assert re.search(
        "^recommended: (lean-processes|lean-dask|processes|dask-processes),? ",
        done.stdout,
        re.MULTILINE,
    )


def test_the_reference_report_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command to make a report again gives the report that is committed, and no other one."""
    (tmp_path / "reports").symlink_to(ROOT / "reports")
    monkeypatch.chdir(tmp_path)
    for command in blocks("console", "Reading the numbers"):
        subprocess.run(arguments(command), check=True, capture_output=True, timeout=patience())
    made = (tmp_path / "my_report" / "report.md").read_text()
    assert made == (ROOT / "reports" / "reference" / "report.md").read_text()


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    """Run a program until the block ends."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=patience())


@pytest.mark.e2e
def test_ones_own_flows(pytester: pytest.Pytester) -> None:
    """The README's test of one's own flows passes as it stands, in a project without settings.

    On one's own Dask cluster the next test runs it.
    """
    (example,) = blocks("python", "Your own flows")
    pytester.makepyfile(test_example=example)
    result = pytester.runpytest_subprocess("--flow-runners", "sequential,threads,processes")
    result.assert_outcomes(passed=3)
    result.stdout.re_match_lines([r"flowgauge: start-up .*, skipped \d days.*"])


@pytest.mark.nightly
def test_a_cluster_that_exists_is_used(pytester: pytest.Pytester) -> None:
    """The commands for one's own cluster run tests in its workers, and the cluster runs on.

    The README's test of one's own flow is one of them, as it stands.
    """
    from distributed import Client

    (block,) = blocks("console", "Your own cluster")
    scheduler, worker, tests = (arguments(line) for line in block.splitlines())
    address = tests[-1]
    (example,) = blocks("python", "Your own flows")
    pytester.makepyfile(test_example=example)
    pytester.makepyfile(
        f"""
        from distributed import Client
        from prefect import flow, task

        def test_tasks_run_in_the_cluster(task_runner):
            @task
            def where():
                from distributed import get_worker
                return get_worker().address

            @flow(task_runner=task_runner)
            def wheres():
                return where.submit().result()

            with Client({address!r}, set_as_default=False) as client:
                assert wheres() in client.scheduler_info(n_workers=-1)["workers"]
        """
    )
    with ExitStack() as cluster:
        cluster.enter_context(running(scheduler))
        cluster.enter_context(running(worker))
        client = cluster.enter_context(Client(address, timeout=patience(), set_as_default=False))
        client.wait_for_workers(2, timeout=patience())
        result = pytester.runpytest_subprocess(*tests[1:])
        result.assert_outcomes(passed=4)
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 2
