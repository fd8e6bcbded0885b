"""What a GPU is lent for, in order of worth: each step's command, what it needs and what it leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PREPARATION = "preparation"
PATCHES = {  # name: patch, features, batch; as nnU-Net plans them for LA, a large CT and ACDC
    "la": ((80, 112, 112), (32, 64, 128, 256, 320), 2),
    "large": ((128, 128, 128), (32, 64, 128, 256, 320, 320), 2),
    "2d": ((256, 256), (32, 64, 128, 256, 512, 512, 512), 12),
}
TINY = {"la": ((16, 16, 16), (4, 6, 8, 8), 2), "2d": ((16, 16), (4, 6, 8, 8), 2)}
FIRST = ("Supervised", "SupervisedMix", "BCP", "MeanTeacher", "CPS", "FixMatch", "UAMT", "DHC")
LOOPS = ("MeanTeacher", "UAMT", "CPS", "URPC", "DHC", "FixMatch")  # of `peers.py`
IDLE = ("Supervised", "MeanTeacher", "FixMatch")  # nnU-Net's stream alone, with weak views, with weak and strong ones
PUBLISHED = ("Supervised", "SupervisedMix", "BCP", "MeanTeacher", "CutMix", "UAMT", "CPS", "FixMatch")
SEARCH = ("Supervised", "SupervisedMix", "BCP", "CutMix", "FixMatch", "MeanTeacher", "CPS", "DHC")


@dataclass(frozen=True)
class Place:
    """Where and how long the steps run.

    Attributes:
        python: of the environment with the package.
        checkout: the project's root.
        state: the machine's folder, with `data` from the loads.
        device: "cuda" or "cpu".
        cores: of the machine.
        iterations: of the trainings at full resolution.
        tiny: a rehearsal: every step in seconds.
    """

    python: Path
    checkout: Path
    state: Path
    device: str
    cores: int
    iterations: int
    tiny: bool = False


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        group: steps of one group follow one another or, if `lanes` of them may, run side by side.
        leaves: a JSON file with its figures; None for tests, whose figures are read off their output.
        limit: seconds after which it is ended, and not tried again; None for what takes as long as there is time.
        least: seconds below which it is not begun.
        needs: the data set that it reads.
        lanes: how many of the group run at once.
    """

    name: str
    group: str
    command: tuple[str, ...]
    leaves: Path | None = None
    limit: float | None = None
    least: float = 20.0
    needs: str = ""
    lanes: int = 1
    environment: dict[str, str] = field(default_factory=dict)


def steps(place: Place) -> Iterator[Step]:
    """All of them, the most wanted first."""
    yield from preparations(place)
    yield from tests(place)
    yield from step_times(place, FIRST[:2] if place.tiny else FIRST, "step times")
    yield from loaders(place)
    yield from peers(place)
    yield suggesting(place)
    yield from published(place)
    yield from search(place)
    yield from step_times(place, others(place), "step times of the others")


def script(place: Place, name: str, *arguments: object) -> tuple[str, ...]:
    return (str(place.python), str(place.checkout / "benchmarks" / name), *map(str, arguments))


def at_size(place: Place, patch: Sequence[int], features: Sequence[int], batch: int) -> tuple[object, ...]:
    """The arguments of a measurement with one network and batch on the device."""
    return ("--device", place.device, "--patch", *patch, "--features", *features, "--batch", batch)


def preparations(place: Place) -> Iterator[Step]:
    """Both data sets, converted and preprocessed on all cores."""
    for data, suite in (("la", suite_of(place, "la")), ("acdc", suite_of(place, "acdc"))):
        yield Step(f"data {suite}", PREPARATION, row(place, suite, data), limit=None, needs=data)


def tests(place: Place) -> Iterator[Step]:
    """Of the marker `gpu`: numbers and waits of all methods first, compiling last."""
    processes = max(1, place.cores // 2)
    parts = {
        "steps": (150.0, ["tests/gpu/test_steps.py", "-k", "not inductor"]),
        "loading, commands, ranks, resume": (
            180.0,
            ["tests/gpu/test_loading.py", "tests/training", "tests/test_every_trainer.py"],
        ),
        "overflow": (60.0, ["tests/methods/test_extremes.py"]),
        "compiled": (120.0, ["tests/gpu/test_steps.py", "-k", "inductor"]),
    }
    for name, (limit, chosen) in parts.items():
        if place.tiny:
            chosen = [chosen[0], "-k", "BCP and not inductor or loading"]
        command = (str(place.python), "-m", "pytest", "-v", "-m", "gpu and not long" if place.tiny else "gpu", "-n",
                   str(processes), "--dist", "load", "-p", "no:cacheprovider", *chosen)  # fmt: skip
        yield Step(f"tests: {name}", "tests", command, limit=180.0 if place.tiny else limit, least=30.0)


def step_times(place: Place, methods: tuple[str, ...], group: str) -> Iterator[Step]:
    """Step, passes and memory, one trainer at one patch each: LA's patch, and the others for the first ones."""
    sizes = TINY if place.tiny else PATCHES
    for name, size in sizes.items():
        for method in methods if name == "la" else methods[:3] if group == "step times" else ():
            leaves = place.state / "figures" / f"step_time_{name}_{method}.json"
            command = script(
                place, "step_time.py", *at_size(place, *size),
                "--repeats", 2 if place.tiny else 15, "--trainers", f"nnUNetTrainer{method}",
                "-o", leaves,
            )  # fmt: skip
            yield Step(f"step time {name} {method}", group, command, leaves, limit=150.0, least=45.0)


def peers(place: Place) -> Iterator[Step]:
    """Our steps beside the loops of others, restated."""
    size = (TINY if place.tiny else PATCHES)["la"]
    for method in LOOPS[:1] if place.tiny else LOOPS:
        leaves = place.state / "figures" / f"peers_{method}.json"
        command = script(
            place, "peers.py", *at_size(place, *size),
            "--repeats", 2 if place.tiny else 15, "--methods", method,
            "-o", leaves,
        )  # fmt: skip
        yield Step(f"peers {method}", "peers", command, leaves, limit=150.0, least=45.0)


def loaders(place: Place) -> Iterator[Step]:
    """The device's idle share with almost all cores at work, then what a batch costs of one of these cores."""
    sizes = TINY if place.tiny else PATCHES
    workers = {"nnUNet_n_proc_DA": str(max(1, place.cores - 2))}
    for name, size in sizes.items():
        for method in IDLE[-1:] if place.tiny else IDLE:
            leaves = place.state / "figures" / f"idle_{name}_{method}.json"
            command = script(
                place, "gpu/idle.py", *at_size(place, *size),
                "--steps", 3 if place.tiny else 100, "--trainer", f"nnUNetTrainer{method}",
                "-o", leaves,
            )  # fmt: skip
            yield Step(f"idle {name} {method}", "loaders", command, leaves, 150.0, 40.0, environment=workers)
    for patch, *_ in [sizes["la"]] if place.tiny else sizes.values():
        name = "x".join(map(str, patch))
        leaves = place.state / "figures" / f"loader_{name}.json"
        command = script(
            place, "loader_time.py", "--patches", name, "--repeats", 2 if place.tiny else 5, "--pool", 0, "-o", leaves
        )
        yield Step(f"core-seconds of a batch {name}", "loaders", command, leaves, 150.0, 40.0)


def suggesting(place: Place) -> Step:
    """`nnunet_ssl suggest` beside nnU-Net's prediction of the same scans."""
    patch, features, batch = (TINY if place.tiny else PATCHES)["la"]
    leaves = place.state / "figures" / "suggest_time.json"
    shape = (32, 32, 32) if place.tiny else (88, 288, 288)
    command = script(
        place, "suggest_time.py", *at_size(place, patch, features, batch),
        "--shape", *shape, "--cases", 2 if place.tiny else 8, "--repeats", 1, "-o", leaves,
    )  # fmt: skip
    return Step("suggest beside predict", "suggest", command, leaves, limit=240.0, least=100.0)


def published(place: Place) -> Iterator[Step]:
    """LA with 8 and ACDC with 3 labeled, two trainings at a time."""
    for method in PUBLISHED[:2] if place.tiny else PUBLISHED:
        for data, labeled in (("la", 8), ("acdc", 3)):
            suite = suite_of(place, data)
            yield training(place, suite, data, method, 2 if suite == "la-coarse" else labeled, "published", 2)


def search(place: Place) -> Iterator[Step]:
    """The small suites on which settings are searched, many at a time: their networks leave a GPU idle."""
    suites = (("la-coarse", "la", 2), ("acdc-mini", "acdc", 3), ("phantom", "", 2))
    for method in SEARCH[:1] if place.tiny else SEARCH:
        for suite, data, labeled in suites[2:] if place.tiny else suites:
            # compiling takes longer than it saves there
            yield training(place, suite, data, method, labeled, "search", 6, {"nnUNet_compile": "false"})


def others(place: Place) -> tuple[str, ...]:
    """The trainers whose step is not timed before."""
    names = (file.stem.removeprefix("nnUNetTrainer") for file in sorted((place.checkout / "trainers").glob("*.py")))
    rest = tuple(name for name in names if name not in FIRST and "_" not in name)
    return rest[:1] if place.tiny else rest


def suite_of(place: Place, data: str) -> str:
    """The suite at full resolution, and a small one of the same scans in a rehearsal."""
    return {"la": "la-coarse", "acdc": "acdc-mini"}[data] if place.tiny else data


def training(
    place: Place, suite: str, data: str, method: str, labeled: int, group: str, lanes: int,
    environment: dict[str, str] | None = None,
) -> Step:  # fmt: skip
    iterations = {"published": place.iterations, "search": 50 if place.tiny else 4000}[group]
    if place.tiny:
        iterations = 100 if suite in ("la-coarse", "acdc-mini") else 50
    leaves = (
        place.state
        / "records"
        / f"{suite}_{labeled}_{'supervised' if method == 'Supervised' else method}_default_{iterations}_seed0.json"
    )
    command = row(place, suite, data, "--method", method, "--labeled", labeled, "--iterations", iterations)
    workers = {"nnUNet_n_proc_DA": str(max(1, (place.cores - 2) // lanes))}
    return Step(
        f"{group} {suite} {labeled} {method} {iterations}", group, command, leaves, None, 60.0, data, lanes,
        workers | (environment or {}),
    )  # fmt: skip


def row(place: Place, suite: str, data: str, *arguments: object) -> tuple[str, ...]:
    source = ("--source", place.state / "data" / data) if data else ()
    folders = ("--work", place.state / "work", "--out", place.state / "records", "--device", place.device)
    return script(place, "gpu/train_row.py", "--suite", suite, *source, *folders, *arguments)
