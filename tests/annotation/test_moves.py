"""All changes or none: whatever fails or is cut off at whatever point, and however often it is tried again."""

import errno
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest
from drawings import draw, folders, own_copy, take, tree, unlabeled
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_ssl.annotation.adopt import adopt_labels, undo_last
from nnunet_ssl.annotation.moves import Moves, interrupted, recover
from nnunet_ssl.errors import InputError

WRITES = (
    (os, "rename"), (os, "replace"), (os, "mkdir"), (os, "fsync"), (Path, "write_text"), (shutil, "copy2"),
    (SimpleITKIO, "write_seg"), (nnUNetDatasetBlosc2, "save_case"),
)  # fmt: skip
REMOVALS = ((os, "unlink"), (os, "rmdir"), (shutil, "rmtree"))


class Killed(BaseException):
    """Nothing is tidied up after it: removals fail as well."""


def failing(at: int, error: BaseException, for_good: bool = False, places=WRITES):
    """Within the context the write of this number fails after it has begun, or all from it on; counts them."""
    stack, count = ExitStack(), [0]

    def counted(original, begins):
        def write(*args, **kwargs):
            count[0] += 1
            if count[0] == at or (for_good and count[0] > at):
                if begins and count[0] == at:
                    original(*args, **kwargs)
                raise error
            return original(*args, **kwargs)

        return write

    for owner, name in places:
        original = getattr(owner, name)
        begins = owner not in (os, shutil)  # what writes content leaves a part of it
        replacement = counted(original, begins)
        stack.enter_context(
            mock.patch.object(owner, name, staticmethod(replacement) if name == "save_case" else replacement)
        )
    return stack, count


def full():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def dataset(phantom_3d, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # which takes its time hundreds of times
    return own_copy(phantom_3d, tmp_path, monkeypatch)


def without_aside(found):
    """But for the record, which has a time, and for the bytes of blosc2's files, which are others each time."""
    kept = {file: digest for file, digest in found.items() if ".adopted" not in file and "adopted.json" not in file}
    made = ("_fullres/phantom_004.b2nd", "_fullres/phantom_004_seg.b2nd")
    return {file: "" if file.endswith(made) else digest for file, digest in kept.items()}


@pytest.fixture
def before_and_after(dataset, tmp_path):
    """The files of the dataset before and after an adoption, and the folder of the label."""
    folder = draw(dataset, tmp_path / "labels", unlabeled(dataset)[0])
    before = tree(dataset.root)
    take(folder)
    after = without_aside(tree(dataset.root))
    undo_last(7)
    assert tree(dataset.root) == before
    return before, after, folder


def nothing_aside(dataset):
    return not [place for place in folders(dataset.root) if ".adopted" in place]


def test_a_write_that_fails_at_any_point_changes_nothing(dataset, before_and_after):
    before, after, folder = before_and_after
    for at in range(1, 500):
        stack, count = failing(at, full())
        try:
            with stack:
                take(folder)
        except (InputError, OSError):
            assert tree(dataset.root) == before and nothing_aside(dataset), at
            continue
        assert without_aside(tree(dataset.root)) == after, at
        if count[0] < at:
            break
        undo_last(7)  # a folder that there was could not be made: no harm
    assert at > 30


def test_an_undo_that_fails_at_any_point_changes_nothing_or_goes_on(dataset, before_and_after):
    before, after, folder = before_and_after
    take(folder)
    for at in range(1, 500):
        stack, count = failing(at, full())
        try:
            with stack:
                undo_last(7)
        except (InputError, OSError):
            if interrupted(dataset.raw):
                undo_last(7)
                assert tree(dataset.root) == before and nothing_aside(dataset), at
                take(folder)
            else:
                assert without_aside(tree(dataset.root)) == after, at
            continue
        assert tree(dataset.root) == before, at
        if count[0] < at:
            break
        take(folder)
    assert at > 10


@pytest.mark.parametrize("error", [full(), Killed()], ids=["full for good", "killed"])
def test_what_was_cut_off_at_any_point_is_taken_back_next_time(dataset, before_and_after, error):
    before, after, folder = before_and_after
    places = (*WRITES, *REMOVALS) if isinstance(error, Killed) else WRITES
    for at in range(1, 500):
        stack, count = failing(at, error, for_good=True, places=places)
        try:
            with stack:
                take(folder)
        except (InputError, OSError, Killed):
            adopt_labels(7, folder, agree=lambda question: False)
            found = tree(dataset.root)
            if found != before:  # it had been done but for tidying up
                assert without_aside(found) == after, at
                undo_last(7)
            assert tree(dataset.root) == before and nothing_aside(dataset), at
            continue
        assert count[0] < at
        break
    assert at > 30


def test_looking_takes_nothing_back(dataset, before_and_after):
    folder = before_and_after[2]
    stack, _ = failing(25, Killed(), for_good=True, places=(*WRITES, *REMOVALS))
    with stack, pytest.raises(Killed):
        take(folder)
    assert interrupted(dataset.raw)
    cut_off = tree(dataset.root)
    with pytest.raises(InputError, match="was cut off: run without --dry-run"):
        adopt_labels(7, folder, agree=None)
    assert tree(dataset.root) == cut_off
    assert undo_last(7) == [] and tree(dataset.root) == before_and_after[0]


def test_what_has_appeared_meanwhile_is_not_overwritten(tmp_path):
    moves = Moves(tmp_path, 1)
    moves.prepare([tmp_path])
    for name in ("a", "b"):
        moves.staged(tmp_path / name).write_text(name)
        moves.put(tmp_path / name)
    (tmp_path / "b").write_text("of somebody else")
    with pytest.raises(InputError, match="b has appeared meanwhile"):
        moves.apply()
    assert [file.name for file in tmp_path.iterdir()] == ["b"] and (tmp_path / "b").read_text() == "of somebody else"


def test_replaced_removed_and_moved_files_come_back(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("replaced", "removed", "moved"):
        (tmp_path / name).write_text(name)
    before = tree(tmp_path)
    moves = Moves(tmp_path, 3)
    moves.prepare([tmp_path, tmp_path / "sub"])
    moves.put_text("new", tmp_path / "replaced")
    moves.take(tmp_path / "removed")
    moves.carry(tmp_path / "moved", tmp_path / "sub" / "moved")
    assert without_aside(tree(tmp_path)) == before
    moves.apply()
    assert set(without_aside(tree(tmp_path))) == {"replaced", "sub/moved"}
    assert not recover(tmp_path)
    assert Moves.read(moves.journal)[0].undo() == []
    assert tree(tmp_path) == before and nothing_left(tmp_path)


def nothing_left(folder):
    return folders(folder) == {"sub"}
