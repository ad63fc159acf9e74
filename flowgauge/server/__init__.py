# SPDX-License-Identifier: Apache-2.0
"""The isolated Prefect server of a pytest run: fast to start, and always ended."""
