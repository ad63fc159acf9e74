# SPDX-License-Identifier: Apache-2.0
"""What Prefect's own models say about deployments."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.check.prefect_rules import apply_rules, top_level_faults

GOOD: dict[str, Any] = {
    "name": "nightly",
    "entrypoint": "etl.py:etl",
    "description": None,
    "version": "{{ $COMMIT }}",
    "tags": ["a", "{{ $TAG }}"],
    "work_pool": {"name": "p", "work_queue_name": None, "job_variables": {"env": {}}},
    "schedules": [
        {"cron": "0 6 * * *", "timezone": "Europe/Berlin", "slug": "daily", "active": False},
        {"interval": 3600, "anchor_date": "2024-01-01T00:00:00Z"},
        {"rrule": "FREQ=DAILY;COUNT=3", "parameters": {"x": "{{ y }}"}},
        {"cron": "{{ $CRON }}", "timezone": "{{ prefect.variables.zone }}"},
    ],
    "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
    "triggers": [
        {"type": "event", "enabled": "{{ prefect.variables.x }}"},
        {"expect": ["a"], "parameters": {"x": "{{ event.id }}"}},
    ],
    "build": [{"prefect.deployments.steps.run_shell_script": {"script": "true"}}],
}


def said(**changes: Any) -> list[str]:
    """Return what is wrong with the good deployment after some changes."""
    faults = apply_rules(GOOD | changes).faults
    return [f"{'.'.join(map(str, steps))}: {what}; {mend}" for steps, what, mend in faults]


def test_nothing_is_wrong_with_a_good_deployment() -> None:
    """All that Prefect accepts is accepted, and templates are left alone."""
    assert said() == []
    assert said(schedules=[]) == said(schedules=None) == said(concurrency_limit=2) == []
    assert said(schedules=None, schedule={}) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schedules": [{"cron": "0 0 * *"}]}, "schedules.0.cron: its schedule is not valid: Inv"),
        ({"schedules": [{"cron": "@Daly"}]}, "schedules.0.cron: "),
        ({"schedules": [{"cron": "H 0 * * *"}]}, "schedules.0.cron: "),
        ({"schedules": [{"interval": 0}]}, "schedules.0.interval: "),
        ({"schedules": [{"rrule": "FREQ=NEVER"}]}, "schedules.0.rrule: "),
        (
            {"schedules": [{"cron": "0 6 * * *"}, {"cron": "0 6 * * *", "timezone": "Berlin"}]},
            'schedules.1.timezone: its schedule is not valid: Invalid timezone: "Berlin"',
        ),
        ({"schedules": [{"interval": 60, "timezone": "Berlin"}]}, "schedules.0.timezone: "),
        ({"schedules": [{"rrule": "FREQ=DAILY", "timezone": "Berlin"}]}, "schedules.0.timezone: "),
        (
            {"schedules": [{"cronn": "0 6 * * *"}]},
            "schedules.0.cronn: its schedule is refused: cronn: Extra inputs are not permitted;"
            " correct it: `prefect deploy` skips the whole file otherwise",
        ),
        (
            {"schedules": [{"cron": "0 6 * * *", "interval": 60}]},
            "schedules.0: its schedule is refused: Exactly one of",
        ),
        ({"schedules": ["0 6 * * *"]}, "schedules.0: its schedule is a str, not a mapping"),
        ({"schedules": {"cron": "0 6 * * *"}}, "schedules: `schedules` is not a list"),
        ({"schedule": "0 6 * * *", "schedules": []}, "schedule: its schedule is a str"),
        ({"schedule": {"cron": "0 6 * * *"}}, "schedule: Both 'schedule' and 'schedules' keys"),
        ({"work_pool": "p"}, "work_pool: `work_pool` is refused: Input should be a valid dict"),
        ({"work_pool": {"name": "p", "job_variable": {}}}, "work_pool.job_variable: Prefect ign"),
        ({"parameters": ["x"]}, "parameters: `parameters` is refused: "),
        (
            {"paramters": {"x": 1}},
            "paramters: Prefect ignores the key 'paramters' here; did you mean 'parameters'?",
        ),
        (
            {"job_variables": {}},
            "job_variables: Prefect ignores the key 'job_variables' here; move it under `work_p",
        ),
        ({"cron": "0 6 * * *"}, "cron: Prefect ignores the key 'cron' here; move it under `sch"),
        ({"concurrency_limit": {"limit": 1, "collision_strategy": "WAIT"}}, "concurrency_limit: "),
        ({"triggers": [{"posture": "Reactiv"}]}, "triggers.0: its trigger is not valid: "),
        ({"version_type": "latest"}, "version_type: `version_type` is not valid: "),
    ],
)
def test_what_prefect_refuses_is_told_with_its_place(changes: dict[str, Any], told: str) -> None:
    """One line says where it is, what Prefect's model says, and what to do."""
    (line,) = said(**changes)
    assert line.startswith(told)


@given(st.integers(-(10**6), 10**6) | st.floats(-(10**6), 10**6))
def test_an_interval_must_be_more_than_zero(seconds: float) -> None:
    """For any number of seconds, an interval is told if and only if it is not above zero."""
    rounded = round(seconds, 6)
    assert bool(said(schedules=[{"interval": rounded}])) is (rounded <= 0)


@given(st.from_regex("[A-Z]{3,12}", fullmatch=True))
def test_keys_that_resemble_none_are_left_alone(key: str) -> None:
    """Prefect ignores unknown keys: only those that look like a slip are told."""
    assert said(**{f"x-{key}": 1, "owner": "us", "version_note": key}) == []


def test_the_rest_of_the_file_is_read_by_prefects_model_too() -> None:
    """Top-level fields of the wrong type, and misspelt ones, are told."""
    assert list(top_level_faults({"name": "p", "pull": None, "definitions": {"a": 1}})) == []
    assert [steps for steps, *_ in top_level_faults({"name": 3, "build": "x"})] == [
        ("name",),
        ("build",),
    ]
    ((steps, what, mend),) = top_level_faults({"deployment": []})
    assert (steps, what) == (("deployment",), "Prefect ignores the key 'deployment' here")
    assert mend == "did you mean 'deployments'?"
