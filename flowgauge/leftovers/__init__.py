# SPDX-License-Identifier: Apache-2.0
"""What a test leaves behind: processes, threads, connections to the server, files."""
