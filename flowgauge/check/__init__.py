# SPDX-License-Identifier: Apache-2.0
"""Whether all flows and deployments of a project load, without a Prefect server."""
