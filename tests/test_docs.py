# SPDX-License-Identifier: Apache-2.0
"""The pages in `docs/`: their commands work, and nothing public is left out."""

from __future__ import annotations

import inspect
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task

import flowgauge
import flowgauge.strategies as strategies
from benchmarks.what_breaks_first import SERVERS
from docs.from_code import fixtures, marks, options, write_catalogue
from flowgauge.catalogue.catalogue import load_catalogue
from flowgauge.catalogue.stamp import unstamped
from flowgauge.faults.faults import FaultsOn
from flowgauge.faults.plan import FAULT_POINTS
from flowgauge.results.rows import Results
from flowgauge.waiting import patience
from tests.code_blocks import ROOT, arguments, blocks
from tests.hosts import Cluster

COPYING = "docs/how_to/copy_a_pattern.md"
FIRST_TEST = "docs/tutorial/first_test.md"
CHOOSING = "docs/how_to/choose_a_task_runner.md"
DRAWING = "docs/how_to/draw_examples.md"
COMPARING = "docs/how_to/measure_and_compare.md"
CLUSTER = "docs/how_to/use_your_cluster.md"
DEPLOYMENT = "docs/tutorial/notebook_to_deployment.md"


def test_every_block_is_run_by_a_test() -> None:
    """No page has code that no test runs (`test_deployed_pipeline.py` has one of the pages)."""
    run = {COPYING, FIRST_TEST, CHOOSING, DRAWING, COMPARING, CLUSTER, DEPLOYMENT}
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")}
    typed = {
        page
        for page in pages
        if "/catalogue/" not in page and (blocks("console", page) or blocks("python", page))
    }
    assert typed == run


def test_the_table_of_faults_is_complete() -> None:
    """Each kind of fault has a row: what it does, what it counts, and where it can strike."""
    page = (ROOT / "docs/how_to/test_your_flows.md").read_text()
    (table,) = re.findall(r"\| fault \|.*\n\| ---.*\n((?:\|.*\n)+)", page)
    rows = re.findall(r"^\| `(\w+)\(", table, re.MULTILINE)
    methods = [name for name, member in vars(FaultsOn).items() if inspect.isfunction(member)]
    assert sorted(rows) == sorted(name for name in methods if not name.startswith("_"))
    assert all(f'"{point}"' in page for point in FAULT_POINTS)


def test_a_pattern_is_listed_shown_copied_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands to copy patterns work in the order in which they are written."""
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("console", COPYING)
    for command in block.splitlines():
        subprocess.run(arguments(command), check=True, capture_output=True, timeout=patience())
    for copied, name in (("backoff", "retries/backoff"), ("tasks_basics", "tasks/basics")):
        text = unstamped((tmp_path / "my_project" / f"{copied}.py").read_text())
        assert text == (ROOT / "patterns" / f"{name}.py").read_text()


def test_advice_comes_from_the_reference_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command uses the committed run if there is no newer one, and recommends a task runner."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "reference").symlink_to(ROOT / "reports" / "reference")
    monkeypatch.chdir(tmp_path)
    # What was measured here would be used first.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command, *_ = blocks("console", CHOOSING)
    done = subprocess.run(
        arguments(command.strip()), check=True, capture_output=True, text=True, timeout=patience()
    )
    assert done.stdout.startswith("costs from reports/reference/results.json, measured ")
    # Which of the runners that use processes it is depends on the last reference run.
    assert re.search(
        "^recommended: (lean-processes|lean-dask|processes|dask-processes),? ",
        done.stdout,
        re.MULTILINE,
    )


def test_the_settings_for_large_runs_are_those_that_are_measured() -> None:
    """A server with the settings on the page is the one in batches of the benchmark."""
    exported = blocks("console", CHOOSING)[4].replace("export ", "").split()
    assert dict(line.split("=") for line in exported) == SERVERS["SQLite, in batches"]


def test_ones_own_flow_run_is_traced_and_advised_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: str, run_history: Any
) -> None:
    """The commands about one's own workflow lead from a flow run to a task runner."""

    @task
    def weigh() -> int:
        return 7

    @flow
    def stock() -> str:
        future = weigh.submit()
        future.wait()
        return str(future.task_run_id)

    state: Any = stock(return_state=True)
    # What happened to tasks reaches the server a moment later.
    assert run_history(state.result()).matches("Pending Running Completed")
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.chdir(tmp_path)
    _, _, commands, *_ = blocks("console", CHOOSING)
    trace, advise, _ = commands.strip().splitlines()
    trace = trace.replace("FLOW_RUN_ID", str(state.state_details.flow_run_id))
    for command, says in ((trace, "my_flow.json: 1 task, "), (advise, "recommended: ")):
        done = subprocess.run(
            arguments(command), check=True, capture_output=True, text=True, timeout=patience()
        )
        assert says in done.stdout


def test_the_reference_report_is_reproduced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command to recreate a report reproduces the committed report exactly."""
    (tmp_path / "reports").symlink_to(ROOT / "reports")
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("console", COMPARING)
    for command in block.splitlines():
        subprocess.run(arguments(command), check=True, capture_output=True, timeout=patience())
    made = (tmp_path / "my_report" / "report.md").read_text()
    assert made == (ROOT / "reports" / "reference" / "report.md").read_text()


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    """Run a program until the `with` block ends."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=patience())


@pytest.mark.e2e
def test_the_first_test_of_ones_own_flow(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tutorial's test passes as written, in a project without settings."""
    (example,) = blocks("python", FIRST_TEST)
    (command,) = blocks("console", FIRST_TEST)
    _, *words = arguments(command.strip())
    pytester.makepyfile(**{words[0].removesuffix(".py"): example})
    result = pytester.runpytest_subprocess(*words)
    result.assert_outcomes(passed=3)
    result.stdout.re_match_lines([r"flowgauge: start-up .*, skipped \d\.\d days.*"])


@pytest.mark.e2e
def test_the_test_for_all_parameters_and_faults(pytester: pytest.Pytester) -> None:
    """The page's test passes as written, in a project without settings."""
    (example,) = blocks("python", DRAWING)
    (command,) = blocks("console", DRAWING)
    _, *words = arguments(command.strip())
    pytester.makepyfile(**{words[0].removesuffix(".py"): example})
    pytester.runpytest_subprocess(*words).assert_outcomes(passed=1)


@pytest.mark.nightly
def test_a_cluster_that_exists_is_used(pytester: pytest.Pytester) -> None:
    """With the commands for an existing cluster, tests run in its workers, and it keeps running.

    The tutorial's test is one of them, as written.
    """
    from distributed import Client

    _, block = blocks("console", CLUSTER)
    scheduler, worker, tests = (arguments(line) for line in block.splitlines())
    address = tests[-1]
    (example,) = blocks("python", FIRST_TEST)
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


@pytest.mark.e2e
def test_the_five_commands_for_a_cluster(
    hosts: Cluster, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server, scheduler and workers that the page's commands start run tests and benchmarks."""
    # Otherwise pytest-benchmark takes this for a run whose rounds disturb each other.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    *_, tests, benchmarks = hosts.commands
    pytester.makeini("[pytest]\nflowgauge = true")
    pytester.makepyfile(
        """
        from prefect import flow, task

        @task
        def double(number):
            return 2 * number

        @flow
        def doubles():
            return double.map([1, 2]).result()

        def test_flow(task_runner):
            assert doubles.with_options(task_runner=task_runner)() == [2, 4]

        def test_cost(paired, task_runner, runner_name):
            paired(doubles.with_options(task_runner=task_runner), check=lambda made: made == [2, 4],
                   id="doubles", group="mine", figure="time", runner=runner_name)
        """
    )
    (hosts.modules / "test_the_five_commands_for_a_cluster.py").write_text(
        (pytester.path / "test_the_five_commands_for_a_cluster.py").read_text()
    )
    pytester.runpytest_subprocess(*tests[1:]).assert_outcomes(passed=3)
    quick = ("--benchmark-min-rounds=2", "--benchmark-max-time=0.1")
    result = pytester.runpytest_subprocess(*benchmarks[1:], *quick)
    result.assert_outcomes(passed=2, skipped=2)
    results = Results.load(pytester.path / "reports" / "latest" / "results.json")
    assert {row.runner for row in results.rows} == {"dask-processes", "lean-dask"}
    assert not any(row.memory for row in results.rows)
    assert results.fingerprint["dask_workers"].startswith("2 Dask workers on 2 other hosts")


def test_every_pattern_has_a_page_with_all_that_it_guarantees(tmp_path: Path) -> None:
    """Each pattern's page has its guarantees, its facts and its code, and the index links to it."""
    write_catalogue(tmp_path)
    index = (tmp_path / "index.md").read_text()
    patterns = load_catalogue(ROOT / "patterns")
    assert len(patterns) == index.count(".md): ")
    for pattern in patterns:
        page = (tmp_path / f"{pattern.name}.md").read_text()
        assert f"]({pattern.name}.md)" in index
        assert re.findall(r"^- \*\*([\w-]+)\*\*", page, re.MULTILINE) == list(pattern.ids)
        assert 'if __name__ == "__main__":' in page


def test_every_option_fixture_and_mark_of_the_plugin_is_listed() -> None:
    """The reference lists exactly what the plugin's files define, and no entry is empty."""
    source = "".join(file.read_text() for file in (ROOT / "flowgauge" / "plugin").glob("*.py"))
    names = {re.split("[= ]", name)[0]: text for name, text in options()}
    assert names.keys() == set(re.findall(r'^ +"(--flow-[a-z-]+)"', source, re.MULTILINE))
    listed = {name.split(" (")[0]: text for name, text in fixtures()}
    defined = re.findall(r"@pytest\.fixture.*\n(?:async )?def ([a-z]\w+)", source)
    assert listed.keys() == set(defined)
    said = {name.split("(")[0]: text for name, text in marks()}
    assert said.keys() == {"runners", "leaves", "guarantee", "fact"}
    assert all(text.strip() for text in (*names.values(), *listed.values(), *said.values()))


def test_every_public_name_is_on_the_page_for_python() -> None:
    """The page documents exactly the names that `flowgauge` and its strategies export."""
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    assert set(re.findall(r":: flowgauge\.(\w+)$", page, re.MULTILINE)) == set(flowgauge.__all__)
    documented = re.findall(r":: flowgauge\.strategies\.(\w+)$", page, re.MULTILINE)
    assert sorted(documented) == sorted(strategies.__all__)
