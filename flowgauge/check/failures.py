# SPDX-License-Identifier: Apache-2.0
"""Why an import failed, in one line, and where."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from flowgauge.check.blocked import RequestBlocked, RunBlocked
from flowgauge.check.loaded import Failure
from flowgauge.frames import outwards

_LONGEST = 200
_MAIN = 'move that under `if __name__ == "__main__":`'
Places = list[tuple[str, int]]


def run_failure(error: RunBlocked, frame: FrameType, file: str, base: Path) -> Failure:
    """Return the failure of a file that runs a flow or a task when it is imported.

    Args:
        error: What it wanted to run.
        frame: The frame where it did.
        file: The imported file.
        base: The folder of the project.

    Returns:
        The failure.
    """
    line, elsewhere = own_place(places_below(frame), file, base)
    what = f"{error.done} when the file is imported"
    return Failure(line, error.subject, what, _MAIN, elsewhere)


def hang_failure(seconds: float, frame: FrameType | None, file: str, base: Path) -> Failure:
    """Return the failure of a file whose import takes too long.

    Args:
        seconds: How long it was allowed to take.
        frame: Where it is; None if that is unknown.
        file: The imported file.
        base: The folder of the project.

    Returns:
        The failure.
    """
    line, elsewhere = own_place(places_below(frame), file, base)
    what = f"is not imported within {seconds:g} s"
    mend = "move what takes long into the flow, or give more --seconds"
    return Failure(line, "", what, mend, elsewhere)


def import_failure(error: BaseException, file: str, base: Path) -> Failure:
    """Return the failure of a file whose import raised an exception.

    Args:
        error: The exception.
        file: The imported file.
        base: The folder of the project.

    Returns:
        The failure.
    """
    steps = traceback.walk_tb(error.__traceback__)
    places = [(frame.f_code.co_filename, line) for frame, line in steps]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno or 1))
    line, elsewhere = own_place(places, file, base)
    what, mend = _said(error)
    return Failure(line, "", what, mend, elsewhere)


def caused_by(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """Return the exception of a kind that led to an error, None if there is none.

    Args:
        error: The error, which may be such an exception itself.
        kind: The kind.

    Returns:
        The first one in the chain of causes and contexts.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, kind):
            return current
        seen.add(id(current))
        current = current.__cause__ or current.__context__
    return None


def own_place(places: Iterable[tuple[str, int]], file: str, base: Path) -> tuple[int, str]:
    """Return the line of a file that led to something, and the other file where it happened.

    Args:
        places: Files and lines, from the outermost call to the innermost.
        file: The file.
        base: The folder of the project.

    Returns:
        The file's innermost line, 1 if there is none. If the innermost place in the project is in
        another file, that place as `/path/x.py:3`, otherwise an empty string.
    """
    line, last = 1, ""
    for name, number in places:
        path = os.path.realpath(name)
        if path == file:
            line, last = number, ""
        elif is_inside(name, base):
            last = f"{path}:{number}"
    return line, last


def is_inside(file: str, base: Path) -> bool:
    """Return whether code is the project's own.

    Args:
        file: The file that the code says it is from, such as `<string>` if there is none.
        base: The folder of the project.

    Returns:
        Whether the file is in the folder, and not an installed package.
    """
    path = os.path.realpath(file)
    is_file = not file.startswith("<")
    return is_file and path.startswith(os.path.join(base, "")) and "site-packages" not in path


def places_below(frame: FrameType | None) -> Places:
    """Return the places of a frame and its callers, from the outermost to the innermost.

    Args:
        frame: The innermost frame.

    Returns:
        Files and lines.
    """
    return [(f.f_code.co_filename, f.f_lineno) for f in outwards(frame)][::-1]


def in_one_line(error: BaseException | str) -> str:
    """Return an error's type and the beginning of its message, or of a message, in one line.

    Args:
        error: The error or the message.

    Returns:
        At most about 200 characters.
    """
    text = " ".join(str(error).split())
    if len(text) > _LONGEST:
        text = text[:_LONGEST].rstrip() + " ..."
    if isinstance(error, str):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _said(error: BaseException) -> tuple[str, str]:
    """Return what is wrong, and what to do."""
    asked = caused_by(error, RequestBlocked)
    if isinstance(asked, RequestBlocked):
        what = f"asks a Prefect server for something when it is imported ({asked.request})"
        return what, "ask for it inside the flow"
    if isinstance(error, SystemExit):
        return f"exits when it is imported, with status {error.code!r}", _MAIN
    what = f"can't be imported: {in_one_line(error)}"
    if isinstance(error, ModuleNotFoundError):
        return what, "install it here, or correct the name"
    if isinstance(error, SyntaxError):
        return what, "correct that line"
    return what, "correct it, or do it inside the flow"
