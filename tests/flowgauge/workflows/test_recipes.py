# SPDX-License-Identifier: Apache-2.0
"""Workflows are drawn from recipes without a network; mistakes are reported in one line."""

from __future__ import annotations

import importlib.util

import pytest

from flowgauge.workflows.recipes import RECIPES, recipe
from flowgauge.workflows.workflow import GraphError

with_wfcommons = pytest.mark.skipif(
    importlib.util.find_spec("wfcommons") is None, reason="pip install wfcommons"
)


@pytest.mark.nightly
@with_wfcommons
def test_a_seed_draws_one_workflow() -> None:
    """The same seed draws the same workflow, another seed another one, no larger than asked."""
    first, same, other = (recipe("Epigenomics", 60, seed) for seed in (1, 1, 2))
    assert first == same
    assert first != other
    assert 43 - 5 <= len(first.tasks) <= 60
    assert first.total_work > first.critical_seconds > 0


@pytest.mark.parametrize("name", RECIPES)
def test_too_few_tasks_are_reported(name: str) -> None:
    """Too few tasks for a recipe are reported in one line, which gives the minimum."""
    with pytest.raises(GraphError, match=rf"\A{name} has no .*: give {RECIPES[name]} or more\Z"):
        recipe(name, RECIPES[name] - 1, 1)


def test_an_unknown_recipe_is_reported() -> None:
    """An unknown recipe is reported in one line, which lists those that exist."""
    with pytest.raises(
        GraphError, match=r'\Athere is no recipe "Blats": choose one of Blast, .*\Z'
    ):
        recipe("Blats", 100, 1)
