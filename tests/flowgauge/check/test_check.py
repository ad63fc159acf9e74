# SPDX-License-Identifier: Apache-2.0
"""Whole projects: what is told about each of their files, without a server."""

from __future__ import annotations

import contextlib
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.check.check import shared_names
from flowgauge.check.loaded import LoadedFlow
from flowgauge.check.problem import Problem, Report
from flowgauge.check.start import CheckError, check_project
from flowgauge.waiting import patience
from tests.code_blocks import ROOT

FLOW = "from prefect import flow\n\n@flow\ndef {0}(): ...\n"
FILES = {
    "good.py": FLOW.format("good").replace("()", "(day: str, rows: int = 3)")
    + "print('noise')\nvariant = good.with_options(retries=2)\n",
    "flows/needs_both.py": "from shared import x\nfrom sibling import y\n" + FLOW.format("both"),
    "shared.py": "x = 1\n",
    "flows/sibling.py": "y = 1\n",
    "package/__init__.py": "",
    "package/deep/__init__.py": "",
    "package/names.py": "x = 1\n",
    "package/deep/part.py": "from ..names import x\n" + FLOW.format("part"),
    "calls.py": FLOW.format("called") + "try:\n    called()\nexcept Exception:\n    pass\n",
    "calls_async.py": "import asyncio\nfrom prefect import flow, task\n@task\ndef load(): ...\n"
    "@flow\nasync def slow(): ...\nasyncio.run(slow())\nload.submit()\n",
    "serves.py": FLOW.format("served") + "served.serve('x')\n",
    "uses_calls.py": "import calls_always\n" + FLOW.format("innocent"),
    "calls_always.py": FLOW.format("always") + "\n\nalways()\n",
    "asks.py": "from prefect.variables import Variable\nx = Variable.get('x')\n"
    + FLOW.format("asks"),
    "asks_async.py": "import asyncio\nfrom prefect.variables import Variable\n"
    "x = asyncio.run(Variable.aget('x'))\n" + FLOW.format("asks"),
    "asks_a_block.py": "from prefect.blocks.system import Secret\n"
    + FLOW.format("secret")
    + "x = Secret.load('x')\n",
    "copes.py": "from prefect.variables import Variable\ntry:\n    x = Variable.get('x')\n"
    "except Exception:\n    x = 1\n" + FLOW.format("copes"),
    "exits.py": "import sys\n" + FLOW.format("exits") + "sys.exit(3)\n",
    "ends.py": "import os\n" + FLOW.format("ends") + "os._exit(4)\n",
    "misses.py": FLOW.format("misses") + "import no_such_module\n",
    "raises.py": "import settings\n" + FLOW.format("raises"),
    "settings.py": "import os\n\nurl = os.environ['NO_SUCH_VARIABLE']\n",
    "broken.py": FLOW.format("broken") + "def (\n",
    "default.py": FLOW.format("default").replace("()", "(x: int = None)"),
    "twin.py": FLOW.format("twin").replace("@flow", "@flow(name='good')"),
    "makes.py": "from good import good\n\nnightly = good.to_deployment(\n    'nightly',"
    " cron='0 6 * * *', parameters={'rosw': 1})\n",
    "prefect.yaml": """\
deployments:
- name: nightly
  entrypoint: good.py:good
  work_pool: {name: p}
  parameters: {day: "{{ $DAY }}"}
  schedules:
  - cron: "0 6 * *"
- name: typo
  entrypoint: good.py:god
  work_pool: {name: p}
- name: of a broken file
  entrypoint: raises.py:raises
  work_pool: {name: p}
- name: module
  entrypoint: package.deep.part:part
  work_pool: {name: p}
- name: by path
  entrypoint: package/deep/part.py:part
  work_pool: {name: p}
- name: no module
  entrypoint: no_such_package.flows:x
  work_pool: {name: p}
- entrypoint: good.py:good
  parameters: {day: x}
- name: no entrypoint
  work_pool: {name: p}
- name: known later
  entrypoint: "{{ $ENTRYPOINT }}"
  work_pool: {name: p}
""",
    # A module of the project may have the name of a package that Prefect needs.
    "yaml.py": "raise RuntimeError\n",
    # Prefect runs where the nearest `prefect.yaml` is. If none names a work pool, an option does.
    "team/prefect.yaml": "deployments:\n- name: x\n  entrypoint: flows/nested.py:nested\n",
    "team/beside_it.py": "x = 1\n",
    "team/flows/nested.py": "from beside_it import x\n" + FLOW.format("nested"),
    "other/prefect.yaml": "deployments:\n- name: x\n  entrypoint: [\n",
}
GUARD = 'move that under `if __name__ == "__main__":`'
TOLD = {
    "calls.py:6: flow 'called': is run when the file is imported; " + GUARD,
    "calls_async.py:7: flow 'slow': is run when the file is imported; " + GUARD,
    "calls_always.py:7: flow 'always': is run when the file is imported; " + GUARD,
    "uses_calls.py:1: flow 'always': is run when the file is imported (in calls_always.py:7); "
    + GUARD,
    "serves.py:5: flow 'served': is served or deployed when the file is imported; " + GUARD,
    "asks.py:2: asks a Prefect server for something when it is imported (GET /variables/name/x);"
    " ask for it inside the flow",
    "asks_async.py:3: asks a Prefect server for something when it is imported (GET"
    " /variables/name/x); ask for it inside the flow",
    "asks_a_block.py:6: asks a Prefect server for something when it is imported (GET"
    " /block_types/slug/secret/block_documents/name/x); ask for it inside the flow",
    "exits.py:6: exits when it is imported, with status 3; " + GUARD,
    "ends.py:1: ends the Python process that imports it, with status 4; import it with Python to"
    " see where",
    "misses.py:5: can't be imported: ModuleNotFoundError: No module named 'no_such_module'; install"
    " it here, or correct the name",
    "raises.py:1: can't be imported: KeyError: 'NO_SUCH_VARIABLE' (in settings.py:3); correct it,"
    " or do it inside the flow",
    "broken.py:5: can't be imported: SyntaxError: invalid syntax; correct that line",
    "default.py:3: flow 'default': the default None of 'x' is no int (Input should be a valid"
    " integer); annotate it `int | None`",
    "twin.py:3: flow 'good': has the same name as the flow at good.py:3, and a server takes them"
    " for one; give one another name: @flow(name=...)",
    "makes.py:3: deployment 'nightly': flow 'good' has no parameter 'rosw'; did you mean 'rows'?",
    "makes.py:3: deployment 'nightly': runs that it schedules fail: the flow requires 'day'; give"
    " it a value under `parameters`, or the flow a default",
    "makes.py:3: deployment 'nightly': flow 'good' has another deployment of this name, at"
    " prefect.yaml:2, and the last one deployed replaces it; rename one of them",
    "prefect.yaml:7: deployment 'nightly': its schedule is not valid: Invalid cron string:"
    ' "0 6 * *"; correct `cron`',
    "prefect.yaml:9: deployment 'typo': there is no 'god' in good.py; did you mean 'good'?",
    "prefect.yaml:18: deployment 'by path': runs can't import the file by its path, as it imports"
    " from above its own folder; write `package.deep.part:part`",
    "prefect.yaml:21: deployment 'no module': module 'no_such_package.flows': can't be imported:"
    " ModuleNotFoundError: No module named 'no_such_package'; install it here, or correct the name",
    "prefect.yaml:23: deployment without a name: `prefect deploy` demands a name unless it can ask;"
    " add `name: ...`",
    "prefect.yaml:23: deployment without a name: it names no work pool, as others of its file do;"
    " add `work_pool: {name: ...}`",
    "prefect.yaml:25: deployment 'no entrypoint': it has no entrypoint; add `entrypoint:"
    " path/to/file.py:flow`",
    "other/prefect.yaml:4: can't be read: expected the node content, but found '<stream end>';"
    " correct that line",
}


def write(folder: Path, files: dict[str, str]) -> None:
    """Write the files of a project."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def lines(report: Report) -> list[str]:
    """Return a report as lines."""
    return [f"{problem.place}: {problem.text}" for problem in report.problems]


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    """Yield a socket that waits for connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Report, bool]]:
    """Yield the report on the project, and whether the server that its settings name was asked."""
    folder = tmp_path_factory.mktemp("project")
    write(folder, FILES)
    with pytest.MonkeyPatch.context() as patch, listening() as server:
        api = f"http://127.0.0.1:{server.getsockname()[1]}/api"
        (folder / "prefect.toml").write_text(f'[api]\nurl = "{api}"\n')
        (folder / ".env").write_text(f"PREFECT_API_URL={api}\n")
        patch.setenv("PREFECT_API_URL", api)
        patch.chdir(folder)
        report = check_project(Path(), patience())
        try:
            server.accept()
        except BlockingIOError:
            yield report, False
        else:
            yield report, True


def test_exactly_what_is_wrong_is_told(checked: tuple[Report, bool]) -> None:
    """Each problem of the project is one line with its place, and nothing else is told."""
    told = lines(checked[0])
    assert set(told) == TOLD
    assert len(told) == len(TOLD)


def test_problems_are_in_the_order_of_files_and_lines(checked: tuple[Report, bool]) -> None:
    """A reader goes through each file once, from its top."""
    places = [(problem.path, problem.line) for problem in checked[0].problems]
    assert places == sorted(places)


def test_flows_and_deployments_are_counted(checked: tuple[Report, bool]) -> None:
    """All that loaded is counted once, and all deployments."""
    report, _ = checked
    loaded = ("good", "both", "part", "called", "copes", "default", "twin", "nested")
    in_files = FILES["prefect.yaml"].count("\n- ") + FILES["team/prefect.yaml"].count("\n- ")
    in_code = 1
    assert (report.flows, report.deployments) == (len(loaded), in_files + in_code)


def test_no_server_is_asked(checked: tuple[Report, bool]) -> None:
    """Neither the environment, nor `.env`, nor `prefect.toml` can make the check send anything."""
    assert checked[1] is False


def test_an_import_that_hangs_is_told_with_its_line(tmp_path: Path) -> None:
    """After --seconds it is given up, and the line where it hangs is known."""
    text = "import time\n" + FLOW.format("hangs") + "time.sleep(1000)\n"
    write(tmp_path, {"hangs.py": text})
    assert lines(check_project(tmp_path, 1)) == [
        f"{tmp_path}/hangs.py:6: is not imported within 1 s; move what takes long into the"
        " flow, or give more --seconds"
    ]


@given(st.lists(st.sampled_from("abc"), max_size=6))
def test_exactly_the_shared_names_are_told(names: list[str]) -> None:
    """For any names, all flows of a name but the first are told, with the place of the first."""
    flows = [LoadedFlow(name, "/x.py", line, name, {}) for line, name in enumerate(names, 1)]
    told = list(shared_names(flows))
    assert Counter(problem.subject for problem in told) == {
        f"flow {name!r}": count - 1 for name, count in Counter(names).items() if count > 1
    }
    for problem in told:
        name = problem.subject.split("'")[1]
        assert names[problem.line - 1] == name
        assert f"the flow at /x.py:{names.index(name) + 1}, " in problem.what


def test_a_file_and_folders_elsewhere_can_be_checked(tmp_path: Path) -> None:
    """A single file outside the working directory finds what is next to it."""
    write(tmp_path, {"etl.py": "import near\n" + FLOW.format("etl"), "near.py": ""})
    assert check_project(tmp_path / "etl.py", patience()) == Report((), 1, 0)


@pytest.mark.parametrize(
    ("path", "seconds", "told"),
    [
        ("missing", 1, "missing: no such file or folder"),
        ("notes.txt", 1, "notes.txt: give a project's folder, or a file ending in .py"),
        (".", 1, "there are no flows and no prefect.yaml"),
        (".", 0, "--seconds 0: give more than zero"),
        (".", float("nan"), "--seconds nan: give more than zero"),
    ],
)
def test_nothing_to_check_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, seconds: float, told: str
) -> None:
    """A wrong path, a folder without flows and a wrong number are one line."""
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckError, match=re.escape(told)):
        check_project(Path(path), seconds)


def only_shared_names(report: Report, root: Path) -> None:
    """Check that patterns have no other problem than names that two of them really use."""
    for problem in report.problems:
        assert "has the same name as the flow at" in problem.what
        ((file, line),) = re.findall(r"at (\S+):(\d+)", problem.what)
        for place, number in ((problem.path, problem.line), (file, int(line))):
            name = problem.subject.split("'")[1]
            after = "\n".join((root / place).read_text().splitlines()[number - 1 :][:9])
            assert re.search(rf"def {name.replace('-', '_')}\(|name=\"{name}\"", after), problem


def test_deployments_of_the_catalogue_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pattern that has a `prefect.yaml` has no problem."""
    monkeypatch.chdir(ROOT)
    report = check_project(Path("patterns/deployments/two_environments"), patience())
    assert lines(report) == []
    assert report.deployments == 2


@pytest.mark.nightly
def test_the_catalogue_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """All patterns load; some share names of flows, as each is a project of its own."""
    monkeypatch.chdir(ROOT)
    only_shared_names(check_project(Path("patterns"), patience()), ROOT)


def test_a_problem_is_one_line() -> None:
    """Whatever an error says, it is told in one line."""
    assert Problem("a.py", 1, "flow 'x'", "says\nmuch", "mend\tit").text == (
        "flow 'x': says much; mend it"
    )
