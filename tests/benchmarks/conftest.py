"""The benchmarks are scripts beside the package: their folders are where they import one another from."""

import sys
from pathlib import Path

import pytest
from small_workspace import BATCH, FEATURES, PATCH

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "gpu")]


@pytest.fixture(scope="module")
def small_workspace(tmp_path_factory):
    """nnU-Net's variables point to one of `workspace.py`, with the sizes of the module of this name."""
    from workspace import make_workspace

    with pytest.MonkeyPatch.context() as patched:
        for kind in ("raw", "preprocessed", "results"):
            patched.setenv(f"nnUNet_{kind}", "")  # to be as it was afterwards
        make_workspace(tmp_path_factory.mktemp("workspace") / "work", PATCH, FEATURES, BATCH)
        yield
