# SPDX-License-Identifier: Apache-2.0
"""The forms of entrypoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.check.entrypoint import EntrypointError, read
from flowgauge.check.loaded import Target


def test_an_entrypoint_is_a_file_or_a_module(tmp_path: Path) -> None:
    """The forms that Prefect imports are read as Prefect reads them."""
    file = tmp_path / "flows" / "etl.py"
    file.parent.mkdir()
    file.touch()
    for text, target, flow in (
        ("flows/etl.py:etl", Target(tmp_path, str(file)), "etl"),
        ("./flows/etl.py:Shop.etl", Target(tmp_path, str(file)), "Shop.etl"),
        (f"{file}:etl", Target(tmp_path, str(file)), "etl"),
        ("flows.etl:etl", Target(tmp_path, "flows.etl", is_file=False), "etl"),
        ("flows.etl.etl", Target(tmp_path, "flows.etl", is_file=False), "etl"),
    ):
        found = read(text, tmp_path, ())
        assert (found.target, found.flow) == (target, flow)


@pytest.mark.parametrize(
    ("text", "what", "mend"),
    [
        ("etl.py:etl", "there is no file 'etl.py'", "did you mean 'flows/etl.py'?"),
        ("flow/other.py:x", "there is no file 'flow/other.py'", "did you mean 'flows/other.py'?"),
        ("zzz.py:x", "there is no file 'zzz.py'", "name a file as seen from the folder 'project'"),
        ("flows/etl.py", "'flows/etl.py' names a file but no flow", "write it as"),
        ("flows/etl:etl", "'flows/etl:etl' is no entrypoint", "write it as"),
        ("etl", "'etl' is no entrypoint", "write it as"),
        (":etl", "':etl' is no entrypoint", "write it as"),
    ],
)
def test_an_entrypoint_that_leads_nowhere_says_what_to_do(
    tmp_path: Path, text: str, what: str, mend: str
) -> None:
    """A wrong form is told, and for a wrong path the nearest file is suggested."""
    files = [tmp_path / "project" / "flows" / name for name in ("etl.py", "other.py")]
    with pytest.raises(EntrypointError) as caught:
        read(text, tmp_path / "project", files)
    assert str(caught.value) == what
    assert caught.value.mend.startswith(mend)
