# SPDX-License-Identifier: Apache-2.0
"""Where and why an import failed."""

from __future__ import annotations

from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from flowgauge.check.blocked import RequestBlocked
from flowgauge.check.failures import caused_by, in_one_line, is_inside, own_place

BASE = Path("/project")
OWN, OTHER = "/project/etl.py", "/project/lib/shop.py"
FOREIGN = ("/lib/python/os.py", "<frozen os>", "/project/.venv/lib/site-packages/x.py")
PLACES = st.lists(st.tuples(st.sampled_from((OWN, OTHER, *FOREIGN)), st.integers(1, 99)))


@example([(OWN, 1), (OTHER, 2), (OWN, 3), (FOREIGN[0], 4)])
@given(PLACES)
def test_the_line_is_the_innermost_one_of_the_file(places: list[tuple[str, int]]) -> None:
    """For any calls, it is the file's last line, and another file's if that is further in."""
    own = [n for n, (name, _) in enumerate(places) if name == OWN]
    other = [n for n, (name, _) in enumerate(places) if name == OTHER]
    line, elsewhere = own_place(places, OWN, BASE)
    assert line == (places[own[-1]][1] if own else 1)
    is_further_in = bool(other) and other[-1] > max(own, default=-1)
    assert elsewhere == (f"{OTHER}:{places[other[-1]][1]}" if is_further_in else "")


def test_only_the_projects_code_is_inside() -> None:
    """Code from elsewhere, from installed packages and from no file is not the project's."""
    assert is_inside(OTHER, BASE)
    assert not any(is_inside(name, BASE) for name in (*FOREIGN, "/project2/x.py"))


def test_a_cause_is_found_behind_other_errors() -> None:
    """What a library makes of an error does not hide it, also if errors cause each other."""
    blocked, wrapped, outer = RequestBlocked("GET /x"), ValueError(), KeyError()
    wrapped.__cause__, outer.__context__ = blocked, wrapped
    assert caused_by(outer, RequestBlocked) is blocked
    wrapped.__cause__ = outer
    assert caused_by(outer, RequestBlocked) is None


@given(st.text(max_size=400))
def test_an_error_is_one_short_line(text: str) -> None:
    """Any message is told in one line that is not long."""
    line = in_one_line(RuntimeError(text))
    assert len(line.splitlines()) == 1
    assert line.startswith("RuntimeError")
    assert len(line) < 250
