# SPDX-License-Identifier: Apache-2.0
"""The content of a report, apart from its format: questions, verdicts, tables and words."""
