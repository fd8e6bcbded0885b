"""Pages that need nothing from elsewhere: templates of this folder, with pictures and styles inside."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, content: dict[str, Any]) -> str:
    """A page from a template of this folder; what `content` holds is text, never markup, unless it says so."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FileSystemLoader(Path(__file__).parent),
    )
    return environment.get_template(template).render(content)


def data_uri(file: Path) -> str:
    """A PNG as the address of an image."""
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"
