# SPDX-License-Identifier: Apache-2.0
"""Conditions that would change what a pytest run shows."""

from __future__ import annotations

import importlib.metadata

import pytest

from flowgauge.plugin import preflight

FLOW_TEST = """
import pytest

{mark}
def test_flow(prefect_server):
    pass

@pytest.mark.timeout(5, method="signal")
def test_without_a_flow():
    pass
"""


@pytest.mark.parametrize(
    ("mark", "options"),
    [
        ("", ["--timeout", "60"]),
        ("@pytest.mark.timeout(60)", []),
        ("@pytest.mark.timeout(60, method='signal')", ["--timeout-method", "thread"]),
        ("@pytest.mark.timeout(60, 'signal')", ["--timeout-method", "thread"]),
    ],
)
def test_time_limits_by_signal_are_refused(
    pytester: pytest.Pytester, mark: str, options: list[str]
) -> None:
    """pytest-timeout's signal method on a test that uses the server is reported in one line."""
    pytester.makepyfile(FLOW_TEST.format(mark=mark))
    result = pytester.runpytest_subprocess("-q", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.outlines + result.errlines if "signal method" in line]
    assert "::test_flow: pytest-timeout's signal method" in line
    assert "timeout_method = thread" in line


@pytest.mark.parametrize("options", [["--timeout", "60", "--timeout-method", "thread"], []])
def test_other_time_limits_are_left_alone(pytester: pytest.Pytester, options: list[str]) -> None:
    """The thread method, no limit, and limits on tests without flows are accepted."""
    pytester.makepyfile(FLOW_TEST.format(mark=""))
    result = pytester.runpytest_subprocess("--collect-only", *options)
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("version", "warns"),
    [("3.8.8", False), ("3.8.0rc1", True), ("3.9.1", False), ("3.10.0", True), ("3.7.4", True)],
)
def test_an_untested_prefect_gives_a_warning(
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    version: str,
    warns: bool,
) -> None:
    """A Prefect outside the tested range gives one warning that names its version and the range."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    preflight.warn_of_untested_prefect()
    assert len(recwarn) == warns
    if warns:
        (warning,) = recwarn
        assert version in str(warning.message)
        assert "3.8" in str(warning.message)


def test_another_server_is_reported(prefect_server: str) -> None:
    """If flows use a server other than that of the fixture, the failure names its address."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    preflight.check_server_in_use(prefect_server)
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}),
        pytest.raises(pytest.fail.Exception, match="flows use the Prefect server at http://127"),
    ):
        preflight.check_server_in_use(prefect_server)
