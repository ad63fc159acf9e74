# SPDX-License-Identifier: Apache-2.0
"""The charts of a report: Vega-Lite specifications and SVG."""
