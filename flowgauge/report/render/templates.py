# SPDX-License-Identifier: Apache-2.0
"""Fills in the templates of pages."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape


def fill_in(template: str, **values: Any) -> str:
    """Fill in a template.

    Args:
        template: The name of a file in `report/templates/`.
        values: By the names that stand in it; what is text is escaped.

    Returns:
        A whole HTML document.

    Raises:
        jinja2.UndefinedError: If the template has a name that has no value.
    """
    environment = Environment(
        loader=PackageLoader("flowgauge.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_code"] = with_code
    return environment.get_template(template).render(values)


def with_code(text: str) -> Markup:
    """Write a sentence with what stands in backticks as code; the sentence itself is no markup."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
