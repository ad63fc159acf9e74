# SPDX-License-Identifier: Apache-2.0
"""The model behind `flowgauge advise`: makespans from measured costs."""
