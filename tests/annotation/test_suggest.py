"""`nnunet_ssl suggest` from a trained tiny model to drafts and page."""

import json
from pathlib import Path

from nnunet_ssl.annotation.suggest import suggest

NAMES = {"configuration": "3d_fullres", "trainer": "nnUNetTrainerMeanTeacher", "plans": "nnUNetPlans_tiny"}


def suggested(out: Path, folds=("0",), **options) -> list[dict]:
    suggest(7, folds=list(folds), out=out, device="cpu", processes=1, **(NAMES | options))
    return json.loads((out / "suggested.json").read_text(encoding="utf-8"))["cases"]


def test_from_model_to_drafts_and_page(dataset, tmp_path, capsys):
    out = tmp_path / "out"
    cases = suggested(out, n=2)
    print(capsys.readouterr().out)
    print(json.dumps(cases, indent=1)[:3000])
