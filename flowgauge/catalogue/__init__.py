# SPDX-License-Identifier: Apache-2.0
"""The catalogue of patterns: reading, checking, searching, copying and mutating them."""
