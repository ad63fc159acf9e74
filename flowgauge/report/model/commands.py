# SPDX-License-Identifier: Apache-2.0
"""The command that measures a group of rows again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from flowgauge.results.joined import BENCHMARKS
from flowgauge.results.rows import Row

_OPTIONS = (
    "--flow-full",
    "--flow-file",
    "--flow-time-scale",
    "--flow-bytes-scale",
    "--flow-runners",
    "--flow-workers",
)


def files_of_groups(measured: Mapping[str, Iterable[Row]]) -> dict[str, list[str]]:
    """Return the files in which each group of rows was measured.

    Args:
        measured: The rows of each test, by its node id.

    Returns:
        For each group the files, without those that only measure its noise.
    """
    files_by_group: dict[str, set[str]] = {}
    for test, rows in measured.items():
        for group in {row.group for row in rows}:
            files_by_group.setdefault(group, set()).add(test.partition("::")[0])
    return {group: sorted(files) for group, files in sorted(files_by_group.items())}


def command(fingerprint: Mapping[str, Any], group: str) -> str:
    """Return the command that measures a group again in the same way.

    Args:
        fingerprint: The fingerprint of the run that measured it.
        group: The group.

    Returns:
        For example "pytest benchmarks/test_metg.py --benchmark-only --flow-full"; empty if the
        fingerprint does not contain the files of the group.
    """
    files = fingerprint.get(BENCHMARKS)
    if not isinstance(files, Mapping) or not files.get(group):
        return ""
    return shlex.join(["pytest", *files[group], "--benchmark-only", *_options(fingerprint)])


def _options(fingerprint: Mapping[str, Any]) -> list[str]:
    """Return the options of the run that affect what is measured."""
    words = shlex.split(str(fingerprint.get("command", "")))
    options: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.partition("=")[0] in _OPTIONS:
            options += [word] if word == "--flow-full" or "=" in word else [word, following]
    return options
