# SPDX-License-Identifier: Apache-2.0
"""Tells tasks that wait for each other for ever, in a run that would hang."""
