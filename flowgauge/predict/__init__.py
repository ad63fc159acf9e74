# SPDX-License-Identifier: Apache-2.0
"""The model behind `flowgauge advise`: predicts makespans from measured costs."""
