# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for tests of flows: parameters, faults and task runners."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("hypothesis") is None:
    raise ModuleNotFoundError(
        'flowgauge.strategies needs Hypothesis: pip install "flowgauge[hypothesis]"',
        name="hypothesis",
    )

from flowgauge.strategies.fault_plans import FaultPlan, PlannedFault, fault_plans, on
from flowgauge.strategies.parameters import parameters
from flowgauge.strategies.runner_names import runner_names

__all__ = ["FaultPlan", "PlannedFault", "fault_plans", "on", "parameters", "runner_names"]
