# SPDX-License-Identifier: Apache-2.0
"""Settings of this repository's own tests; the plugin is switched on in pyproject.toml."""

from hypothesis import Phase, settings

# A flow run takes as long as it takes. Shrinking would repeat one hundreds of times; the seed
# that Hypothesis prints repeats the example as it was found.
settings.register_profile(
    "flowgauge",
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    print_blob=True,
)
settings.load_profile("flowgauge")
