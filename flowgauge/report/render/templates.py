# SPDX-License-Identifier: Apache-2.0
"""Renders the templates of HTML pages."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape


def fill_in(template: str, **values: Any) -> str:
    """Render a template.

    Args:
        template: The name of a file in `report/templates/`.
        **values: The values of the template's variables; text is escaped.

    Returns:
        A complete HTML document.

    Raises:
        jinja2.UndefinedError: If a variable of the template has no value.
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
    """Return text as HTML, with code elements for what is in backticks; the rest is escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
