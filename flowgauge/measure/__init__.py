# SPDX-License-Identifier: Apache-2.0
"""What a run measures, and the form its figures are kept in."""
