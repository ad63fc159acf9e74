# SPDX-License-Identifier: Apache-2.0
"""The plugin's options: all have one prefix, so that no other plugin's get in their way."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.runners.table import RUNNERS, names_where


def add_options(group: pytest.OptionGroup) -> None:
    """Add the options to a group of pytest's."""
    group.addoption(
        "--flow-runners",
        metavar="NAMES",
        help=f"comma-separated task runners to test on: {', '.join(RUNNERS)} (default: all that are"
        f" installed, except {', '.join(names_where(lambda runner: not runner.by_default))}; lean"
        " ones only if benchmarks are measured, and for tests that name them)",
    )
    group.addoption(
        "--flow-dask-address",
        metavar="ADDRESS",
        help="an existing Dask scheduler for the task runners that use Dask processes, for"
        " instance tcp://10.0.0.5:8786",
    )
    group.addoption(
        "--flow-prefect-api",
        metavar="URL",
        help="the API of an existing Prefect server, for instance http://10.0.0.4:4200/api, which"
        " workers on other hosts reach; it is used as it is (default: a server on loopback that"
        " ends with the run)",
    )
    group.addoption(
        "--flow-workers",
        metavar="N",
        help="how many tasks may run concurrently (default: 2; if benchmarks are measured, the"
        " number of cores, or what the cluster at --flow-dask-address can run)",
    )
    group.addoption(
        "--flow-report-dir",
        metavar="DIR",
        type=Path,
        help="folder for the guarantee matrix and the report (default: reports/latest)",
    )
    group.addoption(
        "--flow-full",
        action="store_true",
        help="measure everything, with more rounds: up to three quarters of an hour instead of"
        " three minutes",
    )
    group.addoption(
        "--flow-precision",
        metavar="PERCENT",
        default="5",
        help="a benchmark ends before its time is used (--benchmark-max-time) once the ends of its"
        " interval are this near to the median (default: 5)",
    )
    group.addoption(
        "--flow-resume",
        action="store_true",
        help="continue an interrupted run of benchmarks from what is in the report folder",
    )
    group.addoption(
        "--flow-file",
        metavar="FILE",
        action="append",
        default=[],
        help="a trace in WfFormat to measure instead of the built-in workflows; may be repeated",
    )
    group.addoption(
        "--flow-time-scale",
        metavar="X",
        help="factor for the runtimes of workflows (default: such that each workflow takes at most"
        " a second, not counting overhead)",
    )
    group.addoption(
        "--flow-bytes-scale",
        metavar="X",
        default="0.001",
        help="factor for the sizes of workflows' results (default: 0.001); a task's result is"
        " capped at 1 MB, and the results of all tasks together at 64 MB",
    )
    group.addoption(
        "--flow-publish-artifacts",
        action="store_true",
        help="also publish the benchmark report in Prefect's UI, on the server that Prefect's"
        " settings point to outside of tests",
    )
    group.addoption(
        "--flow-keep-server",
        action="store_true",
        help="leave the process that starts servers running for this project's next run;"
        " `flowgauge server stop` stops it",
    )
    group.addoption(
        "--flow-stock-harness",
        action="store_true",
        help="use Prefect's own test harness, unmodified: slow, for comparison",
    )
