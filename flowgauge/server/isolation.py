# SPDX-License-Identifier: Apache-2.0
"""Isolation of a pytest run from the user's Prefect: home, profile, `.env` and environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flowgauge.compat.features import usable
from flowgauge.compat.names import OWN_SETTINGS
from flowgauge.compat.repeated_work import surroundings

_KEEP = frozenset({"PREFECT_DEBUG_MODE", "PREFECT_LOGGING_LEVEL"})
_ACCESS = frozenset(
    {
        "PREFECT_API_AUTH_STRING",
        "PREFECT_API_KEY",
        "PREFECT_API_SSL_CERT_FILE",
        "PREFECT_API_TLS_INSECURE_SKIP_VERIFY",
        "PREFECT_CLIENT_CUSTOM_HEADERS",
    }
)
"""What a client needs for a server that exists, in addition to its address."""
_reloaded: tuple[object, object] = (None, None)
"""The settings that were last reloaded, and what they were read from."""
_SPEED = {
    # Task runs are written once a second, or ten at a time, instead of one by one, so that on
    # two cores the server takes less time away from the tests. They are visible up to a second
    # later. In batches much larger than what a round of a benchmark sends, a server works in turns
    # with what is measured, so that rounds are fast for a second and slow for the next. Less than a
    # second would be rounded down to none (`prefect.server.services.task_run_recorder`).
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "10",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    # Events come as fast; as shipped they wait up to five seconds.
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "10",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
}


def run_environment(home: Path, *, stock: bool = False, api: str | None = None) -> dict[str, str]:
    """Return the Prefect settings of a pytest run, as environment variables.

    Args:
        home: The folder for everything that Prefect writes during the run.
        stock: Whether to omit the settings that make the server faster than stock Prefect.
        api: The API of a server that exists, None to start one.

    Returns:
        Variable names and values.
    """
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "storage"),
        "PREFECT_MEMO_STORE_PATH": str(home / "memo_store.toml"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        **({"PREFECT_API_URL": api} if api else {}),
        **({} if stock else _SPEED),
    }


@contextmanager
def isolated_environment(
    home: Path, *, stock: bool = False, api: str | None = None
) -> Iterator[None]:
    """Replace all `PREFECT_*` variables by those of a pytest run, and restore them at the end.

    The logging level and debug mode are kept: they change what is displayed, not what happens. So
    is, for a server that exists, what gives access to it.

    Args:
        home: The folder for everything that Prefect writes during the run.
        stock: Whether to omit the settings that make the server faster than stock Prefect.
        api: The API of a server that exists, None to start one.

    Yields:
        Nothing.
    """
    before = dict(os.environ)
    keep = _KEEP | _ACCESS if api else _KEEP
    for name in [name for name in os.environ if name.startswith("PREFECT_") and name not in keep]:
        del os.environ[name]
    os.environ.update(run_environment(home, stock=stock, api=api))
    if "prefect" in sys.modules:
        forget_user_settings()
    try:
        yield
    finally:
        put_back(before)


@contextmanager
def environment_kept() -> Iterator[None]:
    """Restore the environment at the end."""
    before = dict(os.environ)
    try:
        yield
    finally:
        put_back(before)


def put_back(environment: Mapping[str, str]) -> None:
    """Restore the environment of this process."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def forget_user_settings() -> None:
    """Make Prefect in this process reload its settings, and never from a `.env` file.

    Prefect reads `.env` from the working directory whenever it builds its settings and has no
    option to disable that, but each settings model names the file in its configuration.

    A process whose parent did this before it was forked has them already.
    """
    global _reloaded
    if not usable(OWN_SETTINGS, Path(os.environ.get("PREFECT_HOME", os.devnull))):
        return
    from prefect import context
    from prefect.settings.base import PrefectBaseSettings

    models = [PrefectBaseSettings]
    while models:
        model = models.pop()
        model.model_config["env_file"] = None
        models.extend(model.__subclasses__())
    reloaded, sources = _reloaded
    # Settings that are equal may be somebody else's, who has read a `.env` file.
    if reloaded is not context.GLOBAL_SETTINGS_CONTEXT or sources != surroundings():
        context.refresh_global_settings_context()
        _reloaded = (context.GLOBAL_SETTINGS_CONTEXT, surroundings())
