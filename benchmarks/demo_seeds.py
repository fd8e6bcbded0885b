"""What the demo gives with other seeds, each with phantoms of its own:

    python benchmarks/demo_seeds.py --seeds 0 1 2 3 4

Runs `nnunet_ssl demo` for each seed and writes the mean Dice of both trainings to `benchmarks/demo_seeds.json` after
each; a seed that stands there already is passed over. The demo's size was chosen on trials with seeds 0 to 3. In the
file these ran two at a time, so that only seed 4 has a time of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from records import commit, versions

from nnunet_ssl.demo.pipeline import METRICS_FILE, TRAINERS, Size, run_demo
from nnunet_ssl.files import write_json

FILE = Path(__file__).with_suffix(".json")


def measure(seed: int, work: Path, size: Size) -> dict[str, float]:
    """Mean Dice by training, and the seconds of the whole demo."""
    began = time.monotonic()
    run_demo(work / f"seed{seed}", "cpu", seed, size)
    seconds = time.monotonic() - began
    metrics = json.loads((work / f"seed{seed}" / METRICS_FILE).read_text(encoding="utf-8"))
    dice = {name: round(metrics[name]["metrics"]["dice"]["mean"], 4) for name in TRAINERS}
    return {"seed": seed} | dice | {"seconds": round(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--work", type=Path, help="keeps the demos' folders there")
    arguments = parser.parse_args()
    size = Size()
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    runs = known["runs"] if known.get("size") == asdict(size) else []
    work = arguments.work or Path(tempfile.mkdtemp())
    for seed in [seed for seed in arguments.seeds if seed not in {run["seed"] for run in runs}]:
        runs = sorted([*runs, measure(seed, work, size)], key=lambda run: run["seed"])
        command = f"python benchmarks/{Path(__file__).name} --seeds {' '.join(str(run['seed']) for run in runs)}"
        about = {"command": command, "commit": commit(), "versions": versions(), "size": asdict(size)}
        write_json(about | {"runs": runs}, FILE)
    if arguments.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
