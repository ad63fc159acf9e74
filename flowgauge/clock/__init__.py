# SPDX-License-Identifier: Apache-2.0
"""Virtual time for Prefect: waits take no real time, in every process of a test run."""
