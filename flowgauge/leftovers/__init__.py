# SPDX-License-Identifier: Apache-2.0
"""Detection of what a test leaves behind: processes, threads, connections to the server, files."""
