# SPDX-License-Identifier: Apache-2.0
"""`prefect.yaml` as data that knows its lines."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.check.deployment_file import DeploymentFileError, has_template, read

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=8)
VALUES = st.recursive(
    TEXT | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(
        st.dictionaries(st.from_regex("[a-z]{1,6}", fullmatch=True), VALUES, max_size=3),
        min_size=1,
        max_size=3,
    )
)
def test_each_key_knows_its_line(
    tmp_path_factory: pytest.TempPathFactory, written: list[dict[str, object]]
) -> None:
    """For any deployments, the line of each key is the one where the key is written."""
    deployments = [
        {"name": f"d{n}", **{f"x-{k}": v for k, v in d.items()}} for n, d in enumerate(written)
    ]
    path = tmp_path_factory.mktemp("lines") / "prefect.yaml"
    text = yaml.safe_dump({"name": "p", "deployments": deployments}, sort_keys=False)
    path.write_text(text)
    lines = text.split("\n")
    entries = read(path).entries
    assert [entry.raw for entry in entries] == deployments
    for entry in entries:
        assert lines[entry.line() - 1] == f"- name: {entry.name}"
        for key in entry.raw:
            assert lines[entry.line(key) - 1].lstrip("- ").startswith(f"{key}:")
        assert entry.line("no such key") == entry.line()


def written(folder: Path, text: str) -> Path:
    """Write a `prefect.yaml`, and return its path."""
    (folder / "prefect.yaml").write_text(textwrap.dedent(text))
    return folder / "prefect.yaml"


def test_what_an_anchor_shares_has_the_line_where_it_is_written(tmp_path: Path) -> None:
    """Merged keys and aliases have the lines of their anchors, own keys their own."""
    path = written(
        tmp_path,
        """\
        shared: &shared
          entrypoint: a.py:a
          schedules: &daily
            - cron: "0 6 * * *"
        deployments:
          - <<: [*shared]
            name: a
          - name: b
            schedules: *daily
        """,
    )
    first, second = read(path).entries
    assert first.raw["entrypoint"] == "a.py:a"
    assert first.line("entrypoint") == 2
    assert first.line("schedules", 0, "cron") == 4
    assert (second.line("schedules"), second.line("schedules", 0)) == (9, 4)
    assert second.line("schedules", 7) == 9


def test_the_empty_deployment_of_prefect_init_is_none(tmp_path: Path) -> None:
    """A deployment without a name and an entrypoint is left out; so is an empty file."""
    text = "deployments:\n- name: null\n  entrypoint: null\n- name: a\n"
    assert [entry.name for entry in read(written(tmp_path, text)).entries] == ["a"]
    assert read(written(tmp_path, "# nothing\n")).entries == ()


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: [\n", 3, "expected the node content"),
        ("a: 1\nb: c: d\n", 2, "mapping values are not allowed here"),
        ("a: 1\ndeployments:\n  b: 1\n", 2, "`deployments` is not a list of mappings"),
        ("deployments: [a]\n", 1, "`deployments` is not a list of mappings"),
        ("- a\n", 1, "it is a list, not a mapping"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(
    tmp_path: Path, text: str, line: int, what: str
) -> None:
    """The error has the line, and says what is wrong in one line."""
    with pytest.raises(DeploymentFileError, match=what) as caught:
        read(written(tmp_path, text))
    assert caught.value.line == line


@given(VALUES, st.booleans())
def test_a_template_is_found_at_any_depth(value: object, is_there: bool) -> None:
    """A value has a template if and only if some text in it has one."""
    inner = f"{value}".replace("{{", "") + ("{{ $NAME }}" if is_there else "")
    assert has_template({"a": [1, {"b": inner}]}) is is_there
