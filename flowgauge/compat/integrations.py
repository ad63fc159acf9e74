# SPDX-License-Identifier: Apache-2.0
"""Importing this module makes Prefect find and import the installed integrations.

Otherwise it does so at a process's first task; prefect_dask imports distributed and numpy.
"""

from prefect.plugins import load_prefect_collections

load_prefect_collections()
