# SPDX-License-Identifier: Apache-2.0
"""The catalogue of patterns: read, checked, searched, copied and changed on purpose."""
