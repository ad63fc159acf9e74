# SPDX-License-Identifier: Apache-2.0
"""`flowgauge server`: the process that `--flow-keep-server` left running for a project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flowgauge.server.kept import Kept, find_kept, stop_kept
from flowgauge.server.lease import socket_name

app = App(name="server", help="The test server that --flow-keep-server left running.")

Project = Annotated[
    Path | None,
    Parameter(help="The project's folder; or one in it; by default the working directory."),
]


@app.command
def status(project: Project = None, /) -> None:
    """Say whether the project's server is running."""
    root = _root(project)
    found = find_kept(root)
    print(f"{root}: {_described(found) if found else 'no server is running'}")


@app.command
def stop(project: Project = None, /) -> None:
    """End the project's server."""
    root = _root(project)
    stopped = stop_kept(root)
    print(f"{root}: {f'ended {_described(stopped)}' if stopped else 'no server was running'}")


def _root(project: Path | None) -> Path:
    here = (project or Path()).resolve()
    return next((f for f in (here, *here.parents) if find_kept(f)), here)


def _described(kept: Sequence[Kept]) -> str:
    return ", ".join(
        f"server process {zygote.pid}"
        + ("" if zygote.path.name == socket_name() else ", which runs other code than this")
        for zygote in kept
    )
