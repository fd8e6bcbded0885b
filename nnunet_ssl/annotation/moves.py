"""Changes to many files of which all happen or none, and which can be taken back later, byte for byte.

All that is new is written aside first. The changes themselves are renames within one file system, which need no space,
in an order that a journal has: whoever comes after a kill or a power loss takes them back by it. What is replaced or
removed is kept. Aside means a hidden folder beside each file::

    labelsTr/.adopted/3/new/CASE.nii.gz       staged, on its way to labelsTr/CASE.nii.gz
    nnUNetPlans_3d_fullres_unlabeled/.adopted/3/CASE.b2nd     what was removed from there
    .adopted/3/moves.json                     the journal: {"state", "moves": [[from, to]], "folders", "digests"}

The state is "preparing" while files are staged, "moving" while they are renamed, either way, and "done" in between.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from nnunet_ssl.data.previous_stage import digest_of
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import read_json, require_keys, write_json, writing

HIDDEN = ".adopted"
JOURNAL = "moves.json"
Move = tuple[Path, Path]


class Moves:
    """The changes of one adoption; nothing but what is staged happens before `apply`.

    Args:
        root: folder of the dataset; the journal lies in a hidden folder there.
        number: of the adoption.
    """

    def __init__(self, root: Path, number: int):
        self.root, self.number = root, number
        self.journal = root / HIDDEN / str(number) / JOURNAL
        self.moves: list[Move] = []
        self.folders: list[Path] = []  # beside which files are staged and kept
        self.digests: dict[Path, str] = {}

    def aside(self, file: Path) -> Path:
        """Where what a file replaces is kept."""
        return file.parent / HIDDEN / str(self.number) / file.name

    def staged(self, file: Path) -> Path:
        """Where a new file is written first."""
        return file.parent / HIDDEN / str(self.number) / "new" / file.name

    def prepare(self, folders: list[Path]) -> None:
        """Notes beside which folders' files something will be written, and makes room for it."""
        self.folders = sorted({self.root, *folders})
        self._write("preparing")
        for folder in self.folders:
            self.staged(folder / "file").parent.mkdir(parents=True, exist_ok=True)

    def put(self, file: Path, guarded: bool = False) -> None:
        """A staged file takes its place; what lies there is kept.

        Args:
            guarded: no undo if it has changed since, as something that people may have worked on.
        """
        if os.path.lexists(file):
            self.take(file)
        self.moves.append((self.staged(file), file))
        if guarded:
            self.digests[file] = digest_of(self.staged(file))

    def put_text(self, text: str, file: Path) -> None:
        """A text, staged and to take its place; undone only if it is still the same."""
        staged = self.staged(file)
        with writing(staged):
            staged.write_text(text, encoding="utf-8")
        self.put(file, guarded=True)

    def take(self, file: Path) -> None:
        """A file goes."""
        self.moves.append((file, self.aside(file)))

    def carry(self, file: Path, to: Path) -> None:
        """A file goes to another folder; to another file system, or as a link that would break, by a copy."""
        if _can_be_renamed(file, to):
            self.moves.append((file, to))
            return
        with writing(self.staged(to)):
            shutil.copy2(file, self.staged(to))
        self.put(to)
        self.take(file)

    def apply(self) -> None:
        """All renames, or none of them; what was kept of earlier adoptions goes.

        Raises:
            OSError: one failed, and those before it were taken back.
        """
        try:
            self._write("moving")
            for source, target in self.moves:
                _rename(source, target)
            self._write("done")
        except BaseException:
            self.take_back()
            raise
        for folder in self.folders:
            shutil.rmtree(folder / HIDDEN / str(self.number) / "new", ignore_errors=True)
        for earlier in journals(self.root)[:-1]:
            earlier.clear()
        self.clear(only_empty=True)

    def take_back(self) -> None:
        """All renames the other way, those that happened, then nothing is left of the adoption.

        It may be cut off at any moment and called again.

        Raises:
            OSError: one failed; the journal remains.
        """
        for source, target in reversed(self.moves):
            if os.path.lexists(target) and not os.path.lexists(source):
                source.parent.mkdir(parents=True, exist_ok=True)
                _rename(target, source)
        self.clear()

    def undo(self) -> list[Path]:
        """Takes back an adoption that was done. Returns files that it had removed and that are gone by now.

        Raises:
            InputError: a file that it would replace or move is gone, or was changed since.
        """
        if gone := [to for _, to in self.moves if HIDDEN not in to.parts and not os.path.lexists(to)]:
            raise InputError(f"{gone[0]} is gone since that adoption, which cannot be undone without: bring it back.")
        if changed := [file for file, digest in self.digests.items() if digest_of(file) != digest]:
            raise InputError(
                f"{changed[0]} was changed since that adoption, and undoing it would lose the change: put it back as "
                "it was, or move the case back by hand."
            )
        lost = [source for source, to in self.moves if HIDDEN in to.parts and not os.path.lexists(to)]
        self._write("moving")
        self.take_back()
        return lost

    def clear(self, only_empty: bool = False) -> None:
        """Removes what lies aside, the journal last; or those folders alone in which nothing does."""
        for folder in sorted(self.folders, key=lambda folder: folder == self.root):
            own = folder / HIDDEN / str(self.number)
            if only_empty:
                with contextlib.suppress(OSError):  # holds something
                    own.rmdir()
            else:
                shutil.rmtree(own, ignore_errors=True)
            with contextlib.suppress(OSError):
                own.parent.rmdir()

    def _write(self, state: str) -> None:
        content = {
            "state": state,
            "moves": [[str(source), str(target)] for source, target in self.moves],
            "folders": [str(folder) for folder in self.folders],
            "digests": {str(file): digest for file, digest in self.digests.items()},
        }
        write_json(content, self.journal)
        if os.name != "nt":  # has no way to open a folder
            for place in (self.journal, self.journal.parent):
                descriptor = os.open(place, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    @classmethod
    def read(cls, journal: Path) -> tuple[Moves, str]:
        """What a journal has, and its state.

        Raises:
            InputError: it is damaged.
        """
        content = read_json(journal, "bring it back from a copy")
        kinds = {"state": (str,), "moves": (list,), "folders": (list,), "digests": (dict,)}
        require_keys(content, kinds, journal, advice="bring it back from a copy")
        moves = cls(journal.parents[2], int(journal.parent.name))
        moves.moves = [(Path(source), Path(target)) for source, target in content["moves"]]
        moves.folders = [Path(folder) for folder in content["folders"]]
        moves.digests = {Path(file): digest for file, digest in content["digests"].items()}
        return moves, content["state"]


def journals(root: Path) -> list[Moves]:
    """The adoptions of a dataset that can be undone or were cut off, in their order."""
    return [moves for moves, _ in _with_state(root)]


def interrupted(root: Path) -> list[Moves]:
    """The adoptions, or undoings, that were cut off."""
    return [moves for moves, state in _with_state(root) if state != "done"]


def recover(root: Path) -> bool:
    """Takes back what was cut off; returns whether there was something."""
    cut_off = interrupted(root)
    for moves in cut_off:
        moves.take_back()
    for folder in (root / HIDDEN).glob("*"):
        if folder.name.isdigit() and not (folder / JOURNAL).is_file():  # begun or cleared, and cut off
            shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # there is none, or it holds something
        (root / HIDDEN).rmdir()
    return bool(cut_off)


def next_number(root: Path) -> int:
    """The number that the next adoption gets."""
    return max((moves.number for moves in journals(root)), default=0) + 1


def _with_state(root: Path) -> list[tuple[Moves, str]]:
    found = [file for file in (root / HIDDEN).glob(f"*/{JOURNAL}") if file.parent.name.isdigit()]
    return [Moves.read(file) for file in sorted(found, key=lambda file: int(file.parent.name))]


def _rename(source: Path, target: Path) -> None:
    if os.path.lexists(target):
        raise InputError(f"{target} has appeared meanwhile: move it away, and run the same command again.")
    os.rename(source, target)


def _can_be_renamed(file: Path, to: Path) -> bool:
    if os.stat(file.parent).st_dev != os.stat(to.parent).st_dev:
        return False
    return not file.is_symlink() or (to.parent / os.readlink(file)).resolve() == file.resolve()
