# SPDX-License-Identifier: Apache-2.0
"""The workers of a cluster that exists are asked what they have and what they share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import prefect
import pytest
from distributed import Client, LocalCluster

from flowgauge.runners.existing_cluster import (
    ClusterError,
    check_workers,
    look_at_workers,
    out_of_reach,
)
from flowgauge.waiting import patience, wait_until

NOWHERE = "http://127.0.0.1:1/api"


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Yield the address of a scheduler without workers."""
    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield str(cluster.scheduler_address)


@contextmanager
def worker(address: str, folder: Path, *prefix: str, **environment: str) -> Iterator[None]:
    """Run a worker process of a cluster until the `with` block ends."""
    words = ["-m", "distributed.cli.dask_worker", address, "--no-nanny", "--no-dashboard"]
    with (
        Client(address, set_as_default=False) as client,
        subprocess.Popen(
            [*(prefix or (sys.executable,)), *words, "--local-directory", str(folder / "dask")],
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            client.wait_for_workers(1, timeout=patience())
            yield
        finally:
            process.kill()
            wait_until(lambda: not client.scheduler_info()["workers"], "the worker's end")


def refusal(cluster: str, url: str, home: Path, *, existing: bool = True) -> str:
    """Return the message about a cluster whose workers can't be used."""
    with pytest.raises(ClusterError) as raised:
        check_workers(cluster, url, home, existing=existing)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"--flow-dask-address {cluster}: its worker tcp://")
    return str(raised.value)


def test_a_worker_on_this_host_shares_everything(
    cluster: str, prefect_server: str, tmp_path: Path
) -> None:
    """A worker here is not elsewhere and shares files; one that does not reach the API is told."""
    with worker(cluster, tmp_path):
        (seen,) = check_workers(cluster, prefect_server, tmp_path, existing=True)
        assert (seen.prefect, seen.flowgauge) == (prefect.__version__, True)
        assert seen.shares
        assert not seen.elsewhere
        assert not out_of_reach((seen,))
        assert not list(tmp_path.glob("token*"))
        message = refusal(cluster, NOWHERE, tmp_path)
        assert f"can't reach the server at {NOWHERE} (" in message
        assert "--host 0.0.0.0" in message
        message = refusal(cluster, NOWHERE, tmp_path, existing=False)
        assert "listens on loopback only" in message


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
@pytest.mark.parametrize("namespace", ["pid", "mount"])
def test_a_worker_elsewhere_shares_nothing(
    cluster: str, prefect_server: str, tmp_path: Path, namespace: str
) -> None:
    """Files at the same path that are others, and other process ids, are noticed."""
    hidden = tmp_path / "home"
    hidden.mkdir()
    command: Any = ["unshare", f"--{namespace}", "--fork", "--kill-child", "--"]
    if namespace == "mount":
        command += ["sh", "-c", f'mount -t tmpfs none {hidden} && exec {sys.executable} "$@"', "sh"]
    else:
        command += [sys.executable]
    if subprocess.run(["unshare", f"--{namespace}", "--fork", "true"]).returncode:
        pytest.skip("namespaces can't be made here")
    with worker(cluster, tmp_path, *command):
        (seen,) = look_at_workers(cluster, prefect_server, hidden)
        assert not seen.shares
        assert "shares no files, memory and process ids with pytest" in out_of_reach((seen,))


def test_a_worker_with_another_prefect_or_without_flowgauge_is_told(
    cluster: str, prefect_server: str, tmp_path: Path
) -> None:
    """One line says which worker has another Prefect, or no Flowgauge, and what to install."""
    packages = str(Path(prefect.__file__).parents[1])
    # Without `site`, files that add this repository to the path are not read.
    with worker(cluster, tmp_path, sys.executable, "-S", PYTHONPATH=packages):
        (seen,) = look_at_workers(cluster, prefect_server, tmp_path)
        assert seen.shares
        assert not seen.flowgauge
        assert "does not have flowgauge installed" in out_of_reach((seen,))
        assert "has no flowgauge: install there" in refusal(cluster, prefect_server, tmp_path)
        check_workers(cluster, prefect_server, tmp_path, existing=False)
    info = tmp_path / "other" / "prefect-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: prefect\nVersion: 0.1\n")
    with worker(cluster, tmp_path, PYTHONPATH=str(info.parent)):
        message = refusal(cluster, prefect_server, tmp_path)
        assert f"has Prefect 0.1, but pytest has {prefect.__version__}" in message
