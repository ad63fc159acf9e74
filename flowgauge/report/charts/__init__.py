# SPDX-License-Identifier: Apache-2.0
"""How the answers are drawn: Vega-Lite specifications and SVG."""
