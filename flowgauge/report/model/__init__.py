# SPDX-License-Identifier: Apache-2.0
"""What a report says: questions and their rows, verdicts, labels, words."""
