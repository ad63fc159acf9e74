# SPDX-License-Identifier: Apache-2.0
"""The database template: migrated once per version of Prefect and copied for every server."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

_DATABASE = "template.db"
_DIGEST = "template.sha256"


def cache_folder() -> Path:
    """Return the folder for what Flowgauge keeps between runs; it need not exist."""
    return user_cache_path("flowgauge")


def template_key() -> str:
    """Return a name that changes whenever a new server would create a different database."""
    import prefect.server.database

    migrations = Path(prefect.server.database.__file__).parent / "_migrations"
    collections = importlib.metadata.entry_points(group="prefect.collections")
    packages = {e.dist.name: e.dist.version for e in collections if e.dist}
    parts = (
        sys.version_info[:2],
        sqlite3.sqlite_version,
        sorted(str(path.relative_to(migrations)) for path in migrations.rglob("*.py")),
        sorted(packages.items()),
    )
    return f"database-{prefect.__version__}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def copy_template(cache: Path, database: Path, build: Callable[[Path], None]) -> bool:
    """Copy a database from the template, which is built first if there is no intact one.

    Args:
        cache: The folder for templates.
        database: The file to create.
        build: Creates a migrated database at a path.

    Returns:
        Whether the database was created; False if the cache can't be written.
    """
    template = cache / template_key()
    try:
        template.parent.mkdir(parents=True, exist_ok=True)
        with _locked(template.with_name(f"{template.name}.lock")):
            if not is_sound(template):
                _build(template, build)
            shutil.copyfile(template / _DATABASE, database)
    except OSError as error:
        print(f"flowgauge: no database template, migrating instead: {error}", file=sys.stderr)
        database.unlink(missing_ok=True)
        return False
    return True


def is_sound(template: Path) -> bool:
    """Return whether a template exists and is intact."""
    try:
        return (template / _DIGEST).read_text() == _digest(template / _DATABASE)
    except (OSError, UnicodeDecodeError):
        return False


def _build(template: Path, build: Callable[[Path], None]) -> None:
    unfinished = template.with_name(f"{template.name}.unfinished")
    for folder in (unfinished, template):
        shutil.rmtree(folder, ignore_errors=True)
    unfinished.mkdir()
    build(unfinished / _DATABASE)
    with contextlib.closing(sqlite3.connect(unfinished / _DATABASE)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
    if answer != "ok":
        raise OSError(f"{unfinished / _DATABASE}: {answer}")
    (unfinished / _DIGEST).write_text(_digest(unfinished / _DATABASE))
    unfinished.rename(template)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
