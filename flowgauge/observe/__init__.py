# SPDX-License-Identifier: Apache-2.0
"""What a run really did: its state history and its effects."""
