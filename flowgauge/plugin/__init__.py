# SPDX-License-Identifier: Apache-2.0
"""Everything that pytest calls: hooks, fixtures, the checks before a run and the recorder."""
