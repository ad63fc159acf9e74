# SPDX-License-Identifier: Apache-2.0
"""What Flowgauge knows about releases of Prefect, and what it changes in one."""
