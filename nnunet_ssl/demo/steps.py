"""The demo's steps: a line for each that is done, and below them one bar over all of it with the time left."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from nnunet_ssl.commands import find_command
from nnunet_ssl.errors import InputError

LOGS = "logs"
LOOK_EVERY = 0.5  # seconds between two looks at a command's log
SURE_FROM = 0.05  # share of all work after which the time that it took tells what is left

# Of a command's output so far: the share of its work that is done (None if that is not to be seen), and a note.
Look = Callable[[str], tuple[float | None, str]]


class Steps:
    """Runs the steps one after the other; commands write to a log each, so that this alone writes to the terminal.

    Args:
        folder: the demo's; logs go to `logs` in it.
        environment: of the commands.
        work: seconds that each step takes on some machine, in their order: the bar and the time left follow from their
            ratios.
        console: where the lines and the bar go. Without a terminal there are lines alone.
    """

    def __init__(self, folder: Path, environment: dict[str, str], work: list[float], console: Console):
        self.folder, self.environment, self.work, self.console = folder, environment, work, console
        self.number = 0
        self.began = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),  # all of it fits 80 columns
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=sum(work), left="")

    def __enter__(self) -> "Steps":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[float | None, str], None]]:
        """Times a step; the function that it gives shows which share of the step is done, with a note.

        Where the share is not to be seen (None) it follows the clock, at the pace of the steps before, but not to the
        end.
        """
        before, own, total = sum(self.work[: self.number]), self.work[self.number], sum(self.work)
        self.number += 1
        began, line = time.monotonic(), f"{self.number:2d}/{len(self.work)} {title}"
        pace = (began - self.began) / before if before else 1.0

        def show(share: float | None, note: str = "") -> None:
            now = time.monotonic()
            done = before + own * (min(0.95, (now - began) / (own * pace)) if share is None else share)
            left = time_left(now - self.began, done / total)
            self.bar.update(self.task, completed=done, left=left, description=", ".join(filter(None, (line, note))))

        show(0)
        yield show
        show(1)
        self.bar.console.print(f"{line}: {clock(time.monotonic() - began)}")

    def command(
        self,
        title: str,
        command: list[str],
        variables: dict[str, str] | None = None,
        look: Look = lambda log: (None, ""),
    ) -> None:
        """A step that is a command of this Python environment.

        Raises:
            InputError: it failed; its last line and its log are named.
        """
        with self.step(title) as show:
            log = self.folder / LOGS / f"{self.number:02d}_{title.replace(' ', '_')}.log"
            program = [find_command(command[0]), *command[1:]]
            with log.open("w", encoding="utf-8") as stream:
                process = subprocess.Popen(
                    program, env=self.environment | (variables or {}), stdout=stream, stderr=subprocess.STDOUT
                )
            try:
                while process.poll() is None:
                    show(*look(log.read_text(encoding="utf-8", errors="replace")))
                    time.sleep(LOOK_EVERY)
            except KeyboardInterrupt:  # the terminal has sent it to the command and its workers, too
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
            if process.returncode:
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["(no output)"]
                raise InputError(
                    f'The step "{title}" failed with exit status {process.returncode}: {lines[-1].strip()}\n'
                    f"Its output: {log}"
                )


def time_left(seconds: float, share: float) -> str:
    """`3:05 left` of what took so many seconds for this share of it; "" while that tells little, and at the end."""
    return f"{clock(seconds * (1 - share) / share)} left" if SURE_FROM <= share < 1 else ""


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
