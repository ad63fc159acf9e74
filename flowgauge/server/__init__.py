# SPDX-License-Identifier: Apache-2.0
"""The isolated Prefect server that a test run works against: fast to start, ended in any case."""
