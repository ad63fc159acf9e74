# SPDX-License-Identifier: Apache-2.0
"""`python -m flowgauge`: the command line where the `flowgauge` script is not on the path."""

from flowgauge.cli.app import main

main()
