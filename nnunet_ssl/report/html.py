"""Pages that need nothing from elsewhere: templates of a folder, with pictures and styles inside."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent


def render(template: str, content: dict[str, Any], folder: Path = HERE) -> str:
    """A page from a template of a folder; what `content` holds is text, never markup, unless it says so."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FileSystemLoader(folder),
    )
    return environment.get_template(template).render(content)


def data_uri(png: bytes) -> str:
    """A PNG as the address of an image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
