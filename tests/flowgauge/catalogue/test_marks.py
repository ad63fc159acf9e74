# SPDX-License-Identifier: Apache-2.0
"""The marks of tests are read without importing the tests."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from flowgauge.catalogue.headers import CatalogueError
from flowgauge.catalogue.marks import Proof, proofs


def test_proofs_are_read_from_marks(tmp_path: Path) -> None:
    """Marks on functions, methods and classes are read, with strings or constants of the file."""
    file = tmp_path / "test_marks.py"
    file.write_text(
        textwrap.dedent("""
        import pytest

        pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]
        NAME = "retries/backoff"
        ID: str = "delays"

        @pytest.mark.guarantee("tasks/basics", "name", runners=("threads",), reason="why")
        @pytest.mark.guarantee(NAME, "attempts")
        async def test_one(task_runner, tmp_path): ...

        @pytest.mark.guarantee(NAME, ID)
        class TestTwo:
            @pytest.mark.nightly
            @pytest.mark.fact(NAME, "limit")
            def test_three(self): ...

        @pytest.mark.parametrize("other", ["mark"])
        def test_four(): ...
        """)
    )
    (tmp_path / "conftest.py").write_text("not python")
    of_file = frozenset({"e2e", "usefixtures"})
    of_one = of_file | {"guarantee"}, frozenset({"task_runner", "tmp_path"})
    of_three = of_file | {"guarantee", "fact", "nightly"}, frozenset({"self"})
    assert proofs(tmp_path) == (
        Proof("guarantee", "tasks/basics", "name", file, "test_one", *of_one),
        Proof("guarantee", "retries/backoff", "attempts", file, "test_one", *of_one),
        Proof("guarantee", "retries/backoff", "delays", file, "TestTwo", of_file | {"guarantee"}),
        Proof("fact", "retries/backoff", "limit", file, "TestTwo::test_three", *of_three),
    )


@pytest.mark.parametrize("kind", ["guarantee", "fact"])
@pytest.mark.parametrize("arguments", ["f(), 'a'", "ELSEWHERE, 'a'", "'a'", "'a', 'b', 'c'", ""])
def test_a_mark_that_cannot_be_read_is_reported(tmp_path: Path, kind: str, arguments: str) -> None:
    """A mark is an error with its line number unless the file itself gives both its names."""
    file = tmp_path / "test_marks.py"
    file.write_text(f"import pytest\n@pytest.mark.{kind}({arguments})\ndef test_x(): ...\n")
    with pytest.raises(
        CatalogueError, match=rf"test_marks\.py:2: write the pattern and the {kind}"
    ):
        proofs(tmp_path)


def test_a_test_file_that_is_not_python_is_reported(tmp_path: Path) -> None:
    """The error for a test file with a syntax error names the file."""
    (tmp_path / "test_broken.py").write_text("def")
    with pytest.raises(CatalogueError, match=r"test_broken\.py is not Python"):
        proofs(tmp_path)
