# SPDX-License-Identifier: Apache-2.0
"""The migrated database that servers are copied from."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flowgauge.server import template
from flowgauge.server.template import copy_template, is_sound
from flowgauge.waiting import patience

BUILD = """
import sqlite3, sys, time
from pathlib import Path
from flowgauge.server import template

def build(database):
    print("built")
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE made (at)")
    time.sleep(0.5)

template.template_key = lambda: "key"
assert template.copy_template(Path(sys.argv[1]), Path(sys.argv[2]), build)
"""


def build(database: Path) -> None:
    """Make a database with one table."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE made (at)")


def tables(database: Path) -> list[str]:
    """Return the names of a database's tables."""
    with closing(sqlite3.connect(database)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the only template, in an empty cache."""
    monkeypatch.setattr(template, "template_key", lambda: "key")
    return tmp_path / "cache" / "flowgauge" / "key"


def refuse(database: Path) -> None:
    """Fail, because this template need not be built."""
    raise AssertionError(database)


def test_two_processes_at_once_build_it_once(cached: Path, tmp_path: Path) -> None:
    """If two servers start at once, one builds the template, and both get its tables."""
    copies = [tmp_path / "one.db", tmp_path / "two.db"]
    made = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, str(cached.parent), str(copy)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for copy in copies
    ]
    printed = [process.communicate(timeout=patience())[0] for process in made]
    assert sorted(printed) == ["", "built\n"]
    assert [tables(copy) for copy in copies] == [["made"], ["made"]]


def test_a_sound_template_is_copied(cached: Path, tmp_path: Path) -> None:
    """An existing template is copied and not built again."""
    copy_template(cached.parent, tmp_path / "first.db", build)
    assert copy_template(cached.parent, tmp_path / "second.db", refuse)
    assert tables(tmp_path / "second.db") == ["made"]


def test_a_damaged_template_is_built_again(cached: Path, tmp_path: Path) -> None:
    """A template in which a byte has changed is not used, but built again."""
    copy_template(cached.parent, tmp_path / "first.db", build)
    content = bytearray((cached / "template.db").read_bytes())
    content[-1] ^= 1
    (cached / "template.db").write_bytes(content)
    assert copy_template(cached.parent, tmp_path / "second.db", build)
    assert tables(tmp_path / "second.db") == ["made"]
    assert is_sound(cached)


def test_an_interrupted_build_is_done_again(cached: Path, tmp_path: Path) -> None:
    """A build that was interrupted half-way is done again from the start."""

    def killed(database: Path) -> None:
        build(database)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_template(cached.parent, tmp_path / "first.db", killed)
    assert not is_sound(cached)
    assert copy_template(cached.parent, tmp_path / "second.db", build)


def test_a_build_that_fails_leaves_no_template(
    cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the template can't be built, the server is left to migrate, and the log says why."""

    def fails(database: Path) -> None:
        raise OSError("the migrations failed")

    assert not copy_template(cached.parent, tmp_path / "first.db", fails)
    assert "migrating instead: the migrations failed" in capsys.readouterr().err
    assert not is_sound(cached)


def test_a_cache_that_cannot_be_written_is_not_an_error(cached: Path, tmp_path: Path) -> None:
    """If the cache can't be written, the server is left to migrate."""
    (tmp_path / "cache").write_text("a file, where the folder should be")
    assert not copy_template(cached.parent, tmp_path / "first.db", build)
    assert not (tmp_path / "first.db").exists()
