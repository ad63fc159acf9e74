# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Release a flow from a Git repository at one commit, know what runs, and roll back.

Problem:
    A deployment that follows a branch changes with every push, between two runs of one night, and
    nobody sees which code a run had. If a release is bad, the branch has to be mended first.

Guarantees:
    pinned: runs have the code of the commit that was released, by branch, tag or commit, although
        the branch has moved or the tag was set anew since.
    refused: a revision that does not exist, or whose flow can't be loaded, is not released: the
        deployment stays as it was.
    known: the deployment's version is the released commit, `releases` gives all that were released,
        and `running_commit` gives in a run the commit of its code.
    rolled-back: `roll_back` releases the commit that was released before the current one, or one
        that is given, with the parameters which the flow had then. Repeated, it goes back further.
    waiting: a run that is waiting for its start has the code that is released when it starts.
    kept: a release leaves schedules, parameters, tags, the limit and the paused state of the
        deployment as they are.
    apart: runs of different commits that share a folder don't change each other's code.

Prefect:
    reset (3.8, 3.9): to deploy a flow again from Python resets parameters, tags, the limit and the
        paused state.
    branch (3.8, 3.9): a deployment without a commit has the code that the branch has when a run
        starts.
    stale (3.8, 3.9): the `deployment_version` of a run is that of the time when the run was
        created, not of the code that it ran.

Not for:
    The packages that the code imports: a worker runs all commits in its own environment, unless it
    starts containers. Data and database schemas, which don't go back with the code. Two people who
    release at the same moment. Repositories that need a password: give Git a credential helper,
    here and on the workers, or pass `credentials` to `GitRepository`.

Costs:
    A release clones the repository and imports the flow; so does each run that starts in an empty
    folder, without the files of other commits.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/deployments/store-flow-code
    - https://docs.prefect.io/v3/how-to-guides/deployments/versioning
"""

from __future__ import annotations

import string
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.runner.storage import GitRepository
from prefect.utilities.callables import parameter_schema
from prefect.variables import Variable
from prefect.workers.process import ProcessWorker

REMEMBERED = 50
"""How many releases are remembered: a variable holds at most 5,000 characters."""


@dataclass(frozen=True)
class Service:
    """What is released.

    Attributes:
        repository: The address of the Git repository, as workers see it.
        entrypoint: The flow in it, as `folder/file.py:function`.
        name: The names of the flow and of the deployment, as `flow/deployment`.
        pool: The work pool.
    """

    repository: str
    entrypoint: str
    name: str
    pool: str


def release(service: Service, revision: str) -> str:
    """Let the deployment have the code of one commit from now on.

    Args:
        service: What is released.
        revision: A branch, a tag or a full commit id.

    Returns:
        The id of the commit.

    Raises:
        ValueError: If there is no such revision.
    """
    commit = commit_of(service.repository, revision)
    deploy(service, commit)
    history = releases(service)
    if history[-1:] != [commit]:
        remember(service, [*history, commit])
    return commit


def roll_back(service: Service, to: str | None = None) -> str:
    """Release an earlier commit again.

    Args:
        service: What is rolled back.
        to: The id of the commit, or its beginning; by default what was released before.

    Returns:
        The id of the commit.

    Raises:
        ValueError: If it was not released before.
    """
    history = releases(service)
    now = current(service)
    while history and (history[-1] == now if to is None else not history[-1].startswith(to)):
        history.pop()
    if not history:
        raise ValueError(f"{service.name}: {to or 'nothing else'} was not released before")
    deploy(service, history[-1])
    remember(service, history)
    return history[-1]


def current(service: Service) -> str | None:
    """Return the commit that is released."""
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(service.name).version


def releases(service: Service) -> list[str]:
    """Return the commits that were released and not rolled back, oldest first."""
    held: Any = Variable.get(variable_of(service), default=[])
    return list(held)


def remember(service: Service, commits: list[str]) -> None:
    """Remember what was released."""
    Variable.set(variable_of(service), list(commits[-REMEMBERED:]), overwrite=True)


def variable_of(service: Service) -> str:
    """Return the name of the variable that holds the releases of a deployment."""
    plain = string.ascii_lowercase + string.digits
    return "releases-" + "".join(c if c in plain else f"-{ord(c):x}-" for c in service.name)


def deploy(service: Service, commit: str) -> None:
    """Let the deployment have the code of a commit."""
    place = Path(service.repository).stem
    # A folder for each commit: in one for all, a run would change the code of another one.
    source = GitRepository(service.repository, commit_sha=commit, name=f"{place}-{commit[:12]}")
    loaded: Any = flow.from_source(source, service.entrypoint)  # type: ignore[arg-type]
    flow_name, _, name = service.name.partition("/")
    if loaded.name != flow_name:
        raise ValueError(f"{service.entrypoint} is the flow {loaded.name!r}, not {flow_name!r}")
    with get_client(sync_client=True) as client:
        try:
            held = client.read_deployment_by_name(service.name)
        except ObjectNotFound:
            loaded.to_deployment(name, version=commit, work_pool_name=service.pool).apply()
            return
        # Only what belongs to the code: deploying again would reset all else.
        code = DeploymentUpdate(
            version=commit,
            entrypoint=service.entrypoint,
            pull_steps=[source.to_pull_step()],
            parameter_openapi_schema=parameter_schema(loaded).model_dump(exclude_unset=True),
        )
        client.update_deployment(held.id, code)


def commit_of(repository: str, revision: str) -> str:
    """Return the id of the commit of a branch, a tag or a commit id."""
    with tempfile.TemporaryDirectory() as place:
        try:
            # Commits without files.
            git("clone", "--quiet", "--bare", "--filter=tree:0", "--", repository, place)
            return git("-C", place, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        except subprocess.CalledProcessError as error:
            reason = error.stderr.strip() or "no such branch, tag or commit"
            raise ValueError(f"{revision!r} in {repository}: {reason}") from None


def running_commit() -> str:
    """Return the commit of the code that the current run has."""
    return git("rev-parse", "HEAD")


def git(*words: str | Path) -> str:
    """Run a command of Git, and return what it prints."""
    done = subprocess.run(["git", *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


FLOW = """
from prefect import flow

@flow
def price(count: int = 1) -> int:
    return count * {}
"""


def commit_price(repository: Path, price: int) -> None:
    """Stand in for a developer who changes the price and commits."""
    (repository / "shop.py").write_text(FLOW.format(price))
    git("-C", repository, "add", "shop.py")
    developer = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
    git("-C", repository, *developer, "commit", "--quiet", "-m", f"the price is {price}")


def main() -> None:
    """Release a flow twice, and roll back."""
    with tempfile.TemporaryDirectory() as place:
        repository = Path(place) / "shop"
        git("init", "--quiet", "--initial-branch=main", repository)
        with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
            template = ProcessWorker.get_default_base_job_template()
            pool = WorkPoolCreate(name="shops", type="process", base_job_template=template)
            client.create_work_pool(pool)
        service = Service(str(repository), "shop.py:price", "price/web", "shops")
        for price in (3, 4):
            commit_price(repository, price)
            print(f"released {release(service, 'main')[:8]} with the price {price}")
        print(f"rolled back to {roll_back(service)[:8]}")
        print(f"current: {str(current(service))[:8]}, all: {[c[:8] for c in releases(service)]}")


if __name__ == "__main__":
    main()
