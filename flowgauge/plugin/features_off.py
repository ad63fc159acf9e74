# SPDX-License-Identifier: Apache-2.0
"""Reports at the end of a run which features were off with the installed Prefect."""

from __future__ import annotations

from typing import Any

import pytest

from flowgauge.compat.features import features_off
from flowgauge.plugin.session import folder_of

_KEY = "flowgauge_off"
_FROM_WORKERS = pytest.StashKey[list[str]]()


def _features_off(config: pytest.Config) -> list[str]:
    home = folder_of(config)
    return features_off(home) if home else []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the features that were off from a pytest-xdist worker to the controller."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_KEY] = _features_off(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Keep what a worker sent."""
    sent = getattr(node, "workeroutput", {}).get(_KEY, [])
    node.config.stash.setdefault(_FROM_WORKERS, []).extend(sent)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write one line for each feature that was off."""
    config = terminalreporter.config
    for line in dict.fromkeys(_features_off(config) + config.stash.get(_FROM_WORKERS, [])):
        terminalreporter.write_line(f"flowgauge: {line}")
