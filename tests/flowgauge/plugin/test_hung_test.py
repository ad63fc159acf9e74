# SPDX-License-Identifier: Apache-2.0
"""A test that hangs is reported with stacks, and does not hold up other tests."""

from __future__ import annotations

import pytest

from flowgauge.server.template import cache_folder

CACHE = cache_folder()
TESTS = """
import threading
import pytest

@pytest.mark.timeout(2, "thread", func_only=True)
def test_that_hangs(prefect_server):
    threading.Event().wait()

def test_another():
    pass
"""


@pytest.mark.e2e
@pytest.mark.parametrize("options", [("-n0",), ("-n1",)], ids=["alone", "distributed"])
def test_all_stacks_are_shown(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """The stacks of the server and of the hanging test are shown; with xdist the run goes on."""
    # A migrated database is cached there already.
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE.parent))
    pytester.makeini("[pytest]\nflowgauge = true")
    pytester.makepyfile(test_it=TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)
    assert result.ret == 1
    said = result.stdout.str() + result.stderr.str()
    wanted = [
        "test_it.py::test_that_hangs hangs",
        "the Prefect server of this run is still running",
        "it was doing:",
        "in run_forever",
        "Stack of MainThread",
        "in test_that_hangs",
    ]
    places = [said.find(line) for line in wanted]
    assert -1 not in places, dict(zip(wanted, places, strict=True))
    assert places == sorted(places)
    if options == ("-n1",):
        result.assert_outcomes(passed=1, failed=1)
