# SPDX-License-Identifier: Apache-2.0
"""Says at the end of a run what did not work with the installed Prefect and was done without."""

from __future__ import annotations

from typing import Any

import pytest

from flowgauge.compat.features import features_off
from flowgauge.plugin.session import folder_of

_KEY = "flowgauge_off"
_OF_WORKERS = pytest.StashKey[list[str]]()


def _noted(config: pytest.Config) -> list[str]:
    home = folder_of(config)
    return features_off(home) if home else []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send what a worker of pytest-xdist noted to where it is written."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_KEY] = _noted(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Keep what a worker noted."""
    sent = getattr(node, "workeroutput", {}).get(_KEY, [])
    node.config.stash.setdefault(_OF_WORKERS, []).extend(sent)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write each feature that was off, once."""
    config = terminalreporter.config
    for line in dict.fromkeys(_noted(config) + config.stash.get(_OF_WORKERS, [])):
        terminalreporter.write_line(f"flowgauge: {line}")
