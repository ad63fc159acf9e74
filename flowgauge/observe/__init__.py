# SPDX-License-Identifier: Apache-2.0
"""What a run really did: its history, its effects."""
