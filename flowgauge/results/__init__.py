# SPDX-License-Identifier: Apache-2.0
"""Rows and timelines, the files that hold them and the machine they were measured on."""
