# SPDX-License-Identifier: Apache-2.0
"""Settings of this repository's own tests; the plugin is switched on in pyproject.toml."""

from hypothesis import settings

# A flow run takes as long as it takes, and the machine may be busy.
settings.register_profile("flowgauge", deadline=None, print_blob=True)
settings.load_profile("flowgauge")
