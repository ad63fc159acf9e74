# SPDX-License-Identifier: Apache-2.0
"""A copied file says where it comes from, and is otherwise identical to the original."""

from __future__ import annotations

import tomllib
from importlib.metadata import version

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.catalogue.catalogue import catalogue_root, load_catalogue
from flowgauge.catalogue.stamp import Stamp, content, read_stamp, stamped, unstamped
from flowgauge.compat.tested_prefect import PROVED_WITH
from tests.flowgauge.catalogue.test_headers import PATTERN

STAMP = Stamp("retries/backoff", "1.2.3", "0123456789abcdef", "3.8.8, 3.9.1")
WITH_TABLE = PATTERN.replace(
    '# ///\n"""', '# [tool.flowgauge]\n# optional-dependencies = ["numpy<3"]\n# ///\n"""', 1
)


@pytest.mark.parametrize("text", [PATTERN, WITH_TABLE], ids=["no table", "a table of its own"])
def test_a_stamp_is_read_back_and_removed(text: str) -> None:
    """A stamp can be read and removed again, and does not change the declared dependencies."""
    made = stamped(text, STAMP)
    assert read_stamp(made) == STAMP
    assert unstamped(made) == text
    assert read_stamp(text) is None
    block = made.partition("# ///\n")[0].split("\n", 2)[2]
    table = tomllib.loads("\n".join(line.removeprefix("#") for line in block.splitlines()))
    assert table["dependencies"] == ["prefect>=3.8,<4", "PyYAML<7"]
    assert table["tool"]["flowgauge"]["proved-with-prefect"] == "3.8.8, 3.9.1"


def test_every_pattern_of_the_catalogue_can_be_stamped() -> None:
    """Every pattern can be stamped, and none has a stamp before it is copied."""
    for pattern in load_catalogue(catalogue_root()):
        text = pattern.path.read_text()
        assert read_stamp(text) is None
        assert read_stamp(stamped(text, STAMP)) == STAMP
        assert unstamped(stamped(text, STAMP)) == text


@given(st.text())
def test_text_that_is_not_a_pattern_is_left_alone(text: str) -> None:
    """Arbitrary text has no stamp, gets none, and stays as it is."""
    assert read_stamp(text) is None
    assert unstamped(text) == text
    assert stamped(text, STAMP) == text


@given(
    st.dictionaries(st.text(), st.text("ab\n"), max_size=3),
    st.dictionaries(st.text(), st.text("ab\n"), max_size=3),
)
def test_the_hash_distinguishes_contents(one: dict[str, str], other: dict[str, str]) -> None:
    """Hashes are equal if and only if file names and lines are, whatever the line endings."""
    lines = [{name: text.splitlines() for name, text in each.items()} for each in (one, other)]
    assert (content(one) == content(other)) == (lines[0] == lines[1])
    assert content(one) == content({n: text.replace("\n", "\r\n") for n, text in one.items()})


def test_a_stamp_names_this_version_and_the_prefect_it_was_proved_with() -> None:
    """A new stamp has the version of Flowgauge, and a release of each tested version of Prefect."""
    stamp = Stamp.of("retries/backoff", {"": PATTERN})
    assert stamp.version == version("flowgauge")
    assert stamp.prefect.split(", ") == list(PROVED_WITH)
