# SPDX-License-Identifier: Apache-2.0
"""How many examples a guarantee is tried with, by what a flow run costs."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import Phase, settings

COSTLY = ("processes", "dask-threads", "dask-processes")
_SETTINGS = "_hypothesis_internal_use_settings"


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """On runners where a flow run takes long try the written example, which is a rich one.

    Examples are drawn where they are cheap; and on all runners where they are drawn at random.
    """
    test: Any = pyfuncitem.obj
    params = pyfuncitem.callspec.params if hasattr(pyfuncitem, "callspec") else {}
    written = getattr(test, "hypothesis_explicit_examples", ())
    if not written or params.get("runner_name") not in COSTLY or not settings().derandomize:
        return (yield)
    before = getattr(test, _SETTINGS)
    setattr(test, _SETTINGS, settings(before, phases=(Phase.explicit,)))
    try:
        return (yield)
    finally:
        setattr(test, _SETTINGS, before)
