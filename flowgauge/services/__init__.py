# SPDX-License-Identifier: Apache-2.0
"""What executes the flow runs of deployments in tests."""
