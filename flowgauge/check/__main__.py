# SPDX-License-Identifier: Apache-2.0
"""The process that checks: it reads a request from stdin, and prints a report."""

from __future__ import annotations

import sys

from flowgauge.check.start import REPORT, REQUEST


def main() -> None:
    """Check what the request says."""
    request = REQUEST.validate_json(sys.stdin.buffer.read())
    # Once, for all forks.
    import prefect.deployments.runner
    import prefect.tasks  # noqa: F401

    from flowgauge.check.check import check
    from flowgauge.check.problem import Report
    from flowgauge.compat.features import missing
    from flowgauge.compat.names import CHECKED_PROJECTS

    if line := missing(CHECKED_PROJECTS):
        report = Report((), 0, 0, line)
    else:
        report = check(request.project, request.base, request.seconds)
    sys.stdout.buffer.write(REPORT.dump_json(report))


if __name__ == "__main__":
    main()
