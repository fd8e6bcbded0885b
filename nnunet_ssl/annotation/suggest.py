"""Which unlabeled scans to annotate next, by a trained model: `nnunet_ssl suggest`.

The folder that results::

    suggested.json     {"strategy", "model", "cases": [{"case", "rank", "scores", "reason", "draft", "draft_digest"}]}
    drafts/            segmentations of these cases, to be corrected and given back to `nnunet_ssl adopt`
    index.html         what to correct, with pictures
    scored/            what is kept of all cases, see `pool.py`
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from nnunet_ssl.annotation.digest import SUGGESTED
from nnunet_ssl.annotation.drafts import install, refuse_corrected
from nnunet_ssl.annotation.model import Model, load_model
from nnunet_ssl.annotation.page import PAGE, write_page
from nnunet_ssl.annotation.pool import Record, begin_folder, describe_labeled, read_record, score_pool
from nnunet_ssl.annotation.scores import CaseScores, within_pool
from nnunet_ssl.annotation.strategies import NEEDS, Choice, choose, require
from nnunet_ssl.data.raw import dataset_number
from nnunet_ssl.data.unlabeled import read_cases, unlabeled_folder
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import read_json, require_keys, require_new_folder, write_json
from nnunet_ssl.locks import locked
from nnunet_ssl.results.export import CHECKPOINT


def suggest(
    dataset_id: int,
    configuration: str,
    trainer: str,
    folds: list[str],
    n: int = 5,
    strategy: str = "boostmis",
    out: Path = Path("nnunet_ssl_suggested"),
    plans: str = "nnUNetPlans",
    checkpoint: str = CHECKPOINT,
    device: str = "cuda",
    processes: int = 2,
    mirroring: bool = True,
    seed: int = 0,
) -> Path:
    """Scores all unlabeled cases, and writes the `n` to annotate next with drafts and a page, which it returns.

    Args:
        folds: whose networks score together, numbers as text or "all".
        out: a new folder, or that of an earlier suggestion: what the same checkpoints have scored is kept.
        seed: of the strategy random.

    Raises:
        InputError: of all that `load_model` and `score_pool` name; there is no unlabeled case, no such strategy, or
            `out` holds corrected drafts.
    """
    require(strategy, set(NEEDS.values()))
    if n < 1:
        raise InputError(f"-n {n}: suggest at least one case.")
    out = out.resolve()
    require_new_folder(out, "-o")
    model = load_model(dataset_id, configuration, trainer, folds, plans, checkpoint, device, mirroring)
    require(strategy, model.predictor.gives)
    folder = unlabeled_folder(model.base, model.predictor.configuration_manager)
    files = {
        case: str(folder / f"{case}.b2nd") for case in read_cases(folder, model.plans, configuration, model.base.name)
    }
    with locked(out):
        _refuse_corrected(out, model, files)
        begin_folder(out / "scored", model.mark)
        labeled = describe_labeled(model, out / "scored")
        records = score_pool(model, files, out / "scored", processes)
        randoms = [_random(case, seed) for case in records]
        scored = within_pool([record.scores for record in records.values()], labeled.descriptors, randoms)
        if n > len(scored):
            print(f"-n {n}: there are {len(scored)} unlabeled cases, all of them are suggested.")
        choices = choose(strategy, scored, labeled, n)
        _refuse_corrected(out, model, files)  # somebody may have begun while this ran
        return _write(out, model, strategy, choices, records, scored)


def _write(
    out: Path,
    model: Model,
    strategy: str,
    choices: Sequence[Choice],
    records: dict[str, Record],
    scored: Sequence[CaseScores],
) -> Path:
    ending = model.predictor.dataset_json["file_ending"]
    cases = [
        {
            "case": choice.scores.case,
            "rank": rank,
            "scores": choice.scores.as_dict(),
            "reason": choice.reason,
            "draft": f"{choice.scores.case}{ending}",
            "draft_digest": records[choice.scores.case].draft_digest,
        }
        for rank, choice in enumerate(choices, 1)
    ]
    install([case["case"] for case in cases], ending, out / "scored" / "drafts", out / "drafts")
    write_json({"strategy": strategy, "model": model.mark, "cases": cases}, out / SUGGESTED)
    write_page(out, model, strategy, choices, scored)
    for case in cases:
        print(f"{case['rank']}. {case['case']}: {case['reason']}")
    print(
        f"Correct the drafts in {out / 'drafts'} and give them back: "
        f"nnunet_ssl adopt -d {dataset_number(model.base.name)} {out / 'drafts'}"
    )
    return out / PAGE


def _refuse_corrected(out: Path, model: Model, pool: Collection[str]) -> None:
    """Raises InputError if drafts of an earlier suggestion were changed and not taken in yet."""
    ending, records = model.predictor.dataset_json["file_ending"], out / "scored" / "cases"
    drafts = os.listdir(out / "drafts") if (out / "drafts").is_dir() else []
    files = [records / f"{name.removesuffix(ending)}.json" for name in drafts]
    digests = [read_record(file).draft_digest for file in files if file.is_file()]
    suggested = []
    if (file := out / SUGGESTED).is_file():
        advice = "name another folder with -o"
        earlier = read_json(file, advice)
        require_keys(earlier, {"cases": (list,)}, file, advice=advice)
        for case in earlier["cases"]:
            require_keys(case, {"case": (str,), "draft_digest": (str,)}, file, "cases[].", advice)
        suggested = [case["case"] for case in earlier["cases"]]
        digests += [case["draft_digest"] for case in earlier["cases"]]
    remedy = (
        f"give it back first, `nnunet_ssl adopt -d {dataset_number(model.base.name)} {out / 'drafts'}`, or name "
        "another folder with -o"
    )
    refuse_corrected(out / "drafts", ending, digests, {*suggested} - {*pool}, model.plans, remedy)


def _random(case: str, seed: int) -> float:
    """In [0, 1), of the case alone: the same whatever else is in the pool."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{case}".encode()).digest()[:6], "big") / 2**48
