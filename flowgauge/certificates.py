# SPDX-License-Identifier: Apache-2.0
"""Prefect's clients of one process share what they trust."""

import functools
import ssl
from contextlib import AbstractContextManager
from types import SimpleNamespace
from unittest.mock import patch


def shared_certificates() -> AbstractContextManager[object]:
    """Return what lets clients share it: each flow run's client would read it anew, in 20 ms."""
    from prefect.client import orchestration

    once = functools.cache(ssl.create_default_context)
    shared = SimpleNamespace(**vars(ssl) | {"create_default_context": once})
    return patch.object(orchestration, "ssl", shared)
