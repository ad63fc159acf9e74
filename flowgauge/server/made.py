# SPDX-License-Identifier: Apache-2.0
"""What was made on the server by name: blocks, variables, limits and others; removing it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from flowgauge.compat.features import note_off, off
from flowgauge.compat.names import MADE_BY_TESTS

_PATHS = {
    # First what acts on others, or refers to them.
    "automation": "/automations/{id}",
    "deployment": "/deployments/{id}",
    "work_pool": "/work_pools/{name}",
    "block_document": "/block_documents/{id}",
    "variable": "/variables/{id}",
    # This one, unlike the newer one of global limits, frees the slots that are taken.
    "concurrency_limit_v2": "/concurrency_limits/{id}",
    "concurrency_limit": "/concurrency_limits/{id}",
    "artifact": "/artifacts/{id}",
}
"""The API's path to each kind of thing, by its table."""
_NAMES = {
    "work_pool": "name",
    "variable": "json_array(name, json(value), json(tags))",
    # Slots of a limit that decay are given back by nobody.
    "concurrency_limit_v2": "json_array(name, CASE WHEN slot_decay_per_second > 0 THEN 0"
    " ELSE active_slots END)",
}
"""What is read of a table besides the id."""
_WHERE = {"artifact": "WHERE key IS NOT NULL"}
"""Artifacts without a key are results of runs."""
_QUERY = " UNION ALL ".join(
    f"SELECT '{table}', id, {_NAMES.get(table, 'NULL')} FROM {table} {_WHERE.get(table, '')}"
    for table in _PATHS
)
_GONE, _REFUSED = 404, 403


Things = dict[tuple[str, str], str | None]
"""What is on the server, by table and id: the name of a work pool, all that a variable consists of,
a limit's name and taken slots, None for the rest."""


class MadeThings:
    """Reads what is on the server, directly from its database, which takes a fraction of a
    millisecond: eight requests before and after each test would take a tenth of a second.

    Args:
        home: The folder of the pytest run, with the database.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._connection: sqlite3.Connection | None = None

    def now(self) -> Things:
        """Return what is on the server; nothing if its database is elsewhere."""
        try:
            if self._connection is None:
                database = self._home / "database" / "prefect-test.db"
                if not database.exists():
                    return {}
                self._connection = sqlite3.connect(
                    f"file:{database}?mode=ro", uri=True, isolation_level=None
                )
            rows = self._connection.execute(_QUERY)
            return {(table, id_): content for table, id_, content in rows}
        except sqlite3.OperationalError as error:
            line = off(MADE_BY_TESTS, f"the server's database can't be read ({error})")
            note_off(line, MADE_BY_TESTS, self._home)
            return {}

    def close(self) -> None:
        """Close the database."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def taken_slots(things: Things) -> dict[str, int]:
    """Return how many slots are taken, by the names of their limits.

    Args:
        things: What is on the server.

    Returns:
        The numbers; limits without taken slots are left out.
    """
    limits = [
        json.loads(content or "")
        for (table, _), content in things.items()
        if table == "concurrency_limit_v2"
    ]
    return {name: round(slots) for name, slots in limits if slots > 0}


def put_back(before: Things, now: Things) -> None:
    """Remove what is new on the server, and give variables the values that they had.

    Args:
        before: What was there.
        now: What is there.
    """
    changed = {
        thing: content
        for thing, content in before.items()
        if thing[0] == "variable" and now.get(thing) != content
    }
    gone = {thing: now[thing] for thing in now.keys() - before.keys()} | changed
    if not gone:
        return
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    with get_client(sync_client=True) as client:
        request: Any = client.request
        for table, path in _PATHS.items():
            for (kind, id_), name in gone.items():
                if kind != table:
                    continue
                try:
                    request("DELETE", path.format(id=id_, name=name))
                except PrefectHTTPStatusError as error:
                    # It went with what was removed before, or is a work pool that the server keeps.
                    if error.response.status_code not in (_GONE, _REFUSED):
                        raise
        for content in changed.values():
            name, value, tags = json.loads(content or "")
            request("POST", "/variables/", json={"name": name, "value": value, "tags": tags})
