"""One training of the accuracy benchmark without its bounds, or the data of a suite alone.

    python benchmarks/gpu/train_row.py --suite la --source DATA/la --work WORK --out RECORDS --method BCP --labeled 8

The same as a row of `benchmarks/accuracy.py`: on one GPU several are started side by side, which must not wait for one
another's bounds. Ctrl-C leaves a checkpoint, and the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from accuracy import Workspace, measure, prepare
from rows import make_rows, record_file, recorded
from suites import SUITES

from nnunet_ssl.errors import InputError
from nnunet_ssl.files import write_json
from nnunet_ssl.locks import locked
from nnunet_ssl.report.records import ALL
from nnunet_ssl.runner.local import interrupted_by_signals
from nnunet_ssl.runner.plan import BASELINE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", required=True, choices=list(SUITES))
    parser.add_argument("--source", type=Path, help="the data set as downloaded")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the record")
    parser.add_argument("--method", help=f"such as BCP; {BASELINE} is nnU-Net alone; none: the data alone")
    parser.add_argument("--labeled", default=ALL, help=f"a number of the suite; {ALL} for all labels")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    asked = parser.parse_args()
    try:
        with interrupted_by_signals():
            run(asked)
    except InputError as error:
        sys.exit(f"train_row: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def run(asked: argparse.Namespace) -> None:
    suite = SUITES[asked.suite]
    workspace = Workspace(suite, asked.work.resolve() / suite.name, asked.device)
    prepare(workspace, asked.source)
    if asked.method is None:
        return
    labeled = ALL if asked.labeled == ALL else int(asked.labeled)
    wanted = argparse.Namespace(
        labeled=None if labeled == ALL else [labeled], methods=[asked.method], seeds=[asked.seed],
        iterations=asked.iterations, preset="default", config="", half=False, name=None,
    )  # fmt: skip
    [row] = [row for row in make_rows(suite, wanted) if (row.method, row.labeled) == (asked.method, labeled)]
    with locked(workspace.root / "locks" / str(row), wait=True):
        if recorded(row, suite, asked.out) is None:
            asked.out.mkdir(parents=True, exist_ok=True)
            write_json(measure(workspace, row), record_file(row, suite, asked.out))


if __name__ == "__main__":
    main()
