"""Small files written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Writes a text file aside, in the same folder, and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(content: Any, path: Path) -> None:
    """Writes JSON, without NaN, which other readers refuse."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
