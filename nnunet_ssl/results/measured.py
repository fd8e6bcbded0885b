"""What was measured of a trained fold: nnU-Net's validation, and the test cases of `nnunet_ssl run --test`."""

import json
from pathlib import Path

from nnunet_ssl.files import read_json

TEST_FOLDER, METRICS_FILE = "test", "metrics.json"


def read_summary(folder: Path) -> dict | None:
    """What nnU-Net measured on a fold; None if there is no `validation/summary.json` or a cut-off one."""
    try:
        summary = json.loads((folder / "validation" / "summary.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return summary if isinstance(summary, dict) and "mean" in summary else None


def read_metrics(fold_folder: Path) -> dict | None:
    """What was measured on the test cases; None if nothing was yet."""
    file = fold_folder / TEST_FOLDER / METRICS_FILE
    return read_json(file, f"remove {file.parent} and run again") if file.is_file() else None
