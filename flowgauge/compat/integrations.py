# SPDX-License-Identifier: Apache-2.0
"""Once imported, Prefect has found and imported the integrations that are installed.

It does so with a process's first task otherwise; prefect_dask brings distributed and numpy.
"""

from prefect.plugins import load_prefect_collections

load_prefect_collections()
