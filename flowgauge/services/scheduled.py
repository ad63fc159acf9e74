# SPDX-License-Identifier: Apache-2.0
"""Which flow runs of deployments are scheduled, according to the Prefect server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

EVER = datetime(9000, 1, 1, tzinfo=UTC)
"""Later than any flow run."""

HORIZON = timedelta(days=10 * 365)
"""How far ahead the next run of a schedule is looked for."""


class Source(Protocol):
    """Where a service finds its work."""

    def scheduled(self, client: SyncPrefectClient, now: datetime) -> list[FlowRun]:
        """Return the flow runs that are scheduled, the earliest first."""


@dataclass(frozen=True)
class OfDeployment:
    """The flow runs of one deployment, as a served flow asks for them.

    Attributes:
        deployment: The id of the deployment.
    """

    deployment: UUID

    def scheduled(self, client: SyncPrefectClient, now: datetime) -> list[FlowRun]:
        """Return the flow runs that are scheduled, the earliest first.

        Args:
            client: The client to ask with.
            now: Virtual time.

        Returns:
            At most 200.
        """
        _schedule_next(client, self.deployment, now)
        found: Iterable[Any] = client.get_scheduled_flow_runs_for_deployments(
            [self.deployment], scheduled_before=EVER
        )
        return _by_start(found)


@dataclass(frozen=True)
class OfWorkPool:
    """The flow runs of all deployments of a work pool, as a worker asks for them.

    Attributes:
        pool: The name of the work pool.
    """

    pool: str

    def scheduled(self, client: SyncPrefectClient, now: datetime) -> list[FlowRun]:
        """Return the flow runs that are scheduled and have a place in the pool, earliest first.

        Args:
            client: The client to ask with.
            now: Virtual time.

        Returns:
            At most 200.
        """
        from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName

        here = WorkPoolFilter(name=WorkPoolFilterName(any_=[self.pool]))
        for deployment in client.read_deployments(work_pool_filter=here):
            if deployment.schedules:
                _schedule_next(client, deployment.id, now)
        found = client.get_scheduled_flow_runs_for_work_pool(self.pool, scheduled_before=EVER)
        return _by_start(each.flow_run for each in found)


def start_of(run: FlowRun) -> datetime:
    """Return when a scheduled flow run should start."""
    return run.next_scheduled_start_time or run.expected_start_time or EVER


def _by_start(runs: Iterable[FlowRun]) -> list[FlowRun]:
    return sorted(runs, key=start_of)


def _schedule_next(client: SyncPrefectClient, deployment: UUID, now: datetime) -> None:
    """Do for the next run of each schedule what Prefect's scheduler, a service, does for many."""
    times = {"start_time": now.isoformat(), "end_time": (now + HORIZON).isoformat()}
    client.request(
        "POST",
        "/deployments/{id}/schedule",
        path_params={"id": deployment},
        json=times | {"min_time": 0.0, "min_runs": 1, "max_runs": 1},
    )
