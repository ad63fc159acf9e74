# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "fsspec>=2024.2,<2028"]
# ///
"""Hand large results on by reference, on disk or in an S3-compatible bucket.

Problem:
    Prefect hands results on as they are. A large table is visited item by item for each task that
    takes it, and pickled on its way to another process. If results are persisted, it is pickled
    into storage, too, and kept in memory until the flow ends. As a flow's parameter it is refused.

Guarantees:
    small: the result of `save` is a reference that pickles to less than 1 kB, even for 5 MB, and
        what was saved is never pickled; a task that takes the reference reads the content.
    parameters: a flow takes a reference to 12 MB as a parameter, also as the JSON that a deployment
        gets.
    absolute: a reference to a relative folder is valid in processes with other working directories.
    bucket: in an S3-compatible bucket, `small`, `once` and `checked` hold, too; only the URL and
        environment variables differ. The reference contains no credentials.
    once: equal contents are stored as one file, which a later `save` does not write again.
    checked: `read` raises a ValueError if the file was changed, cut or exchanged since `save`, and
        a FileNotFoundError if it is gone.
    whole: a process that is killed while it saves to a local disk leaves only a file with another
        name; the next `save` succeeds, as it does if the file was cut.
    cached: with the `INPUTS` policy a task that takes a reference is executed again if the content
        differs, and only then.
    quoted: rows that are passed in `quote` to a task with `NO_CACHE` are not visited.

Prefect:
    limit (3.8, 3.9): a flow run whose parameters have more than 512 KiB as JSON is refused (422),
        even if the flow is called directly.
    visited (3.8, 3.9): the items of an argument are visited for each task run, unless it is passed
        in `quote` or `opaque`; in `quote`, a future stays a future.
    copied (3.8, 3.9): each persisted result is a file of its own, even if the results are equal.
    uncached (3.8, 3.9): with `NO_CACHE`, `persist_result=True` persists nothing.
    kept (3.8, 3.9): a persisted result stays in memory until the flow ends, unless the task has
        `cache_result_in_memory=False`.
    block (3.8, 3.9): as `result_storage`, a `RemoteFileSystem` block with an S3 URL must have been
        saved; then results are stored in the bucket.

Not for:
    Contents that do not fit into memory, or are not bytes: serialise them first. A folder that the
    tasks do not share, as on two machines without a common disk. Removing what is no longer needed:
    use a rule of the bucket, or a scheduled flow. A cached reference outlives its file; then `read`
    raises. Equal tables whose bytes differ: sort what has no order before you save it.

Costs:
    `save` asks whether the file is there and how large it is, and writes it if need be; `read`
    reads it once. Both compute a SHA-256. They block: in async code, use `asyncio.to_thread`.

Sources:
    - https://docs.prefect.io/v3/advanced/results
    - Prefect #10952, #11738 and #7624: large results in memory and in arguments; #11071: `quote`
    - Prefect #9947, #12774 and #4985: size limits
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.utilities.annotations import quote


@dataclass(frozen=True)
class Stored:
    """A reference to bytes in a file whose name is their SHA-256."""

    url: str
    digest: str
    size: int

    def read(self) -> bytes:
        """Return the bytes that were saved.

        Returns:
            The same bytes that `save` received.

        Raises:
            ValueError: If the file holds other bytes.
        """
        files, path = file_system(self.url)
        content: bytes = files.cat_file(path)
        if sha256(content).hexdigest() != self.digest:
            raise ValueError(f"{self.url} was changed: it has {len(content)} bytes of {self.size}")
        return content


def save(content: bytes, folder: str | Path) -> Stored:
    """Store bytes in a folder or bucket, unless they are there.

    Args:
        content: What to store.
        folder: A path, or a URL such as `s3://bucket/tables`. For S3, install `s3fs`; it takes
            credentials and `AWS_ENDPOINT_URL` from the environment, as other AWS clients do.

    Returns:
        A reference to hand on in place of the content.
    """
    digest = sha256(content).hexdigest()
    files, path = file_system(f"{str(folder).rstrip('/')}/{digest}")
    if not (files.exists(path) and files.size(path) == len(content)):
        if isinstance(files, LocalFileSystem):
            # Under another name first: a half-written file must not count as saved.
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            unfinished = f"{path}.{uuid4().hex}"
            files.pipe_file(unfinished, content)
            files.mv(unfinished, path)
        else:
            files.pipe_file(path, content)
    return Stored(files.unstrip_protocol(path), digest, len(content))


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    # A listing that is remembered could hide what another process has written or removed.
    files, path = url_to_fs(url, use_listings_cache=False)
    return files, path


@task
def fetch_readings(station: str, days: int, folder: str) -> Stored:
    """Fetch a large table, store it, and return the reference."""
    readings = [{"station": station, "day": day, "celsius": day % 30} for day in range(days)]
    return save(json.dumps(readings).encode(), folder)


@task
def warmest(readings: Stored) -> int:
    """Read a table that is passed by reference, and return the highest temperature."""
    table: list[dict[str, Any]] = json.loads(readings.read())
    return max(int(reading["celsius"]) for reading in table)


@flow
def report_warmest(readings: Stored) -> int:
    """Take a large table as a parameter; a table itself would be refused."""
    return warmest(readings)


@flow
def compare_stations(stations: list[str], days: int, folder: str) -> dict[str, int]:
    """Hand a large table from task to task by reference."""
    highest = warmest.map(fetch_readings.map(stations, days=days, folder=folder)).result()
    return dict(zip(stations, highest, strict=True))


def make_rows(days: int) -> list[dict[str, Any]]:
    """Make a table that stays in this process."""
    return [{"day": day} for day in range(days)]


@task(cache_policy=NO_CACHE)  # any other policy serialises the rows to compute a key
def count_rows(rows: list[dict[str, Any]]) -> int:
    """Count the rows of a table."""
    return len(rows)


@flow
def count_here(days: int) -> int:
    """Pass a table to a task of the same process: `quote` stops Prefect from visiting its rows."""
    rows: Any = quote(make_rows(days))
    return count_rows(rows)


def main() -> None:
    """Show that large tables travel as references, and that equal contents are stored once."""
    with tempfile.TemporaryDirectory() as folder:
        print(compare_stations(["here", "there"], days=20_000, folder=folder))
        table = fetch_readings("here", 200_000, folder)
        print(f"{table.size} bytes as a parameter: {report_warmest(table)} degrees")
        again = fetch_readings("here", 200_000, folder)
        print(f"saved twice: {len({table, again})} file, {len(table.url)} characters to hand on")
        print(f"{count_here(1000)} rows counted, none visited by Prefect")


if __name__ == "__main__":
    main()
