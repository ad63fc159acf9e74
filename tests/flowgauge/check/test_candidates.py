# SPDX-License-Identifier: Apache-2.0
"""Which files of a project are checked."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from flowgauge.check.candidates import defines_flows, find

FLOW = "from prefect import flow\n@flow\ndef etl(): ...\n"


@pytest.mark.parametrize(
    "source",
    [
        FLOW,
        "from prefect import flow as f, task\n@f(name='x')\nasync def etl(): ...",
        "from prefect.flows import Flow\netl = Flow(print)",
        "from prefect import *\n@flow\ndef etl(): ...",
        "import prefect\n@prefect.flow(retries=2)\ndef etl(): ...",
        "import prefect as p\n@p.flow\ndef etl(): ...",
        "import prefect.flows\n@prefect.flows.flow\ndef etl(): ...",
        "from prefect import flows\n@flows.flow\ndef etl(): ...",
        "from prefect import flow\nclass Shop:\n    @flow\n    def refresh(self): ...",
        "from prefect import flow\netl = flow(print)",
        "from flows import etl\nnightly = [etl.to_deployment('nightly')]",
    ],
)
def test_a_file_that_makes_flows_is_checked(source: str) -> None:
    """However `flow` is imported and used, the file is found; so are deployments at the top."""
    assert defines_flows(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "from prefect import flow",
        "from prefect import task\n@task\ndef load(): ...",
        "from prefect import flow\nflow.from_source('x', entrypoint='y').deploy('z')",
        "from ours import flow\n@flow\ndef etl(): ...",
        "import ours\n@ours.flow\ndef etl(): ...",
        "from .prefect import flow\n@flow\ndef etl(): ...",
        "from flows import etl\ndef main():\n    etl.to_deployment('x')",
        "from flows import etl\nif __name__ == '__main__':\n    etl.to_deployment('x')",
        "x = flow.from_source('y', entrypoint='z').to_deployment('nightly')",
    ],
)
def test_a_file_that_makes_none_is_not_imported(source: str) -> None:
    """Tasks alone, other people's `flow`, scripts and flows loaded from elsewhere are left out."""
    assert not defines_flows(ast.parse(source))


def test_what_is_not_the_projects_own_is_skipped(tmp_path: Path) -> None:
    """Environments, hidden folders, what is built or installed, and tests are left out."""
    kept = ["etl.py", "flows/deep/er.py", "testing/flows.py"]
    left = [
        ".venv/x.py",
        ".hidden/x.py",
        ".hidden.py",
        "env/lib/x.py",
        "node_modules/x.py",
        "build/x.py",
        "dist/x.py",
        "lib/site-packages/x.py",
        "__pycache__/x.py",
        "tests/flows.py",
        "test_etl.py",
        "etl_test.py",
        "conftest.py",
        "etl.txt",
    ]
    for name in (*kept, *left):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(FLOW)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    for folder in (".venv", "flows"):
        (tmp_path / folder / "prefect.yaml").touch()
    project = find(tmp_path)
    assert project.flow_files == tuple(tmp_path / name for name in kept)
    assert project.deployment_files == (tmp_path / "flows" / "prefect.yaml",)


def test_a_named_file_is_always_checked(tmp_path: Path) -> None:
    """A single file is checked even if nothing in it looks like a flow."""
    file = tmp_path / "test_etl.py"
    file.write_text("x = 1")
    assert find(file).flow_files == (file,)


def test_a_file_that_is_not_python_is_told_if_it_mentions_prefect(tmp_path: Path) -> None:
    """Its line and its error are known; other people's broken files are no concern."""
    (tmp_path / "broken.py").write_text(FLOW + "def (\n")
    (tmp_path / "nothing.py").write_text("from prefect import flow\0")
    (tmp_path / "other.py").write_text("def (\n")
    broken, nothing = find(tmp_path).broken
    assert broken == (tmp_path / "broken.py", 4, "SyntaxError: invalid syntax")
    assert nothing[2].startswith("SyntaxError: source code ")
    assert find(tmp_path / "broken.py").broken == (broken,)
