# SPDX-License-Identifier: Apache-2.0
"""The `flowgauge` command line."""
