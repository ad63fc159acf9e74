# SPDX-License-Identifier: Apache-2.0
"""Check the facts in headers against the installed Prefect."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from flowgauge.catalogue.catalogue import find_pattern
from flowgauge.catalogue.headers import CatalogueError, Fact
from flowgauge.compat.tested_prefect import installed_prefect, is_tested

_FACT = pytest.StashKey[tuple[str, Fact]]()


class FactOutdatedError(AssertionError):
    """Prefect no longer does, or does not yet do, what a header says."""


class Facts:
    """The facts in the headers of a catalogue.

    Args:
        root: The folder of the catalogue; if it is missing, every fact is expected to hold.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._facts_of = cache(self._read)

    def bind(self, item: pytest.Item, mark: pytest.Mark) -> None:
        """Expect the test of a fact to fail in each tested version that the fact does not name.

        Args:
            item: The test.
            mark: `fact(pattern, id, ...)`.

        Raises:
            pytest.UsageError: If the pattern's header has no such fact.
        """
        if not self._root.is_dir():
            return
        pattern, id_ = mark.args
        fact = self._facts_of(pattern).get(id_)
        if fact is None:
            raise pytest.UsageError(
                f'{item.nodeid}: the header of {pattern} has no "{id_}" under "Prefect:"'
            )
        item.stash[_FACT] = pattern, fact
        installed = installed_prefect()
        minor = f"{installed.major}.{installed.minor}"
        if is_tested(installed) and minor not in fact.versions:
            reason = f'Prefect {minor} is not among the versions of "{id_}" in {pattern}'
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))

    def _read(self, pattern: str) -> dict[str, Fact]:
        try:
            return {fact.id: fact for fact in find_pattern(self._root, pattern).facts}
        except CatalogueError as error:
            raise pytest.UsageError(str(error)) from None


def outdated_fact(item: pytest.Item) -> FactOutdatedError | None:
    """Return the error for a failed test of a fact, None for any other test."""
    if _FACT not in item.stash:
        return None
    pattern, fact = item.stash[_FACT]
    return FactOutdatedError(
        f"Prefect {installed_prefect()} does not do what the header of {pattern} says: the fact"
        f' "{fact.id}" ({", ".join(fact.versions)}) is out of date'
    )
