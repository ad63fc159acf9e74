# SPDX-License-Identifier: Apache-2.0
"""`flowgauge server`: control the process that `--flow-keep-server` left running."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flowgauge.server.kept import Kept, find_kept, stop_kept
from flowgauge.server.lease import socket_name

app = App(name="server", help="Control the test server that --flow-keep-server left running.")

Project = Annotated[
    Path | None,
    Parameter(help="The project's folder or a folder in it (default: the working directory)."),
]


@app.command
def status(project: Project = None, /) -> None:
    """Show whether the project's server is running."""
    root = _root(project)
    kept = find_kept(root)
    print(f"{root}: {_description(kept) if kept else 'no server is running'}")


@app.command
def stop(project: Project = None, /) -> None:
    """Stop the project's server."""
    root = _root(project)
    stopped = stop_kept(root)
    print(f"{root}: {f'stopped {_description(stopped)}' if stopped else 'no server was running'}")


def _root(project: Path | None) -> Path:
    here = (project or Path()).resolve()
    return next((folder for folder in (here, *here.parents) if find_kept(folder)), here)


def _description(kept: Sequence[Kept]) -> str:
    return ", ".join(
        f"server process {zygote.pid}"
        + (
            ""
            if zygote.path.name == socket_name()
            else ", whose code differs from this environment's"
        )
        for zygote in kept
    )
