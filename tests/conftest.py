"""Shared fixtures: tiny networks, and phantoms planned and preprocessed once per run."""

import os
import shutil
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

# networks here are tiny: threads that wait for each other in a busy loop cost more than they do, most of all on a
# machine that does something else as well; read when torch is first imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# read by nnU-Net when it is first imported
os.environ.setdefault("nnUNet_def_n_proc", "1")
os.environ.pop("nnUNet_ssl_config", None)

# what is optional and not installed, for processes that tests start, too
if find_spec("cleanlab") is None:
    sys.path.append(str(Path(__file__).parent / "stand_ins"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), sys.path[-1])))

import pytest
import torch
from workbench import Dataset, kind, phantom, tiny_network

from nnunet_ssl.networks.net import Net

# a shell starts what runs in the background with Ctrl-C ignored, and so would be what the tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)

# these take a minute or more each: begun last, one of them would keep a single core busy at the end
LONGEST = (
    "test_end_to_end.py",
    "test_accuracy.py",
    "test_dataset_kinds.py",
    "test_two_ranks.py",
    "test_every_trainer.py",
    "test_refusals.py",
    "test_contract.py",
    "test_extremes.py",
    "test_discovery.py",
    "test_workers.py",
    "test_cascade.py",
    "test_kill_and_resume.py",
)


def pytest_collection_modifyitems(items):
    """The longest files first; all others stay in their order."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


COMPILER = os.environ.get("CXX", "g++")
SHARED_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real scans beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real scans beside the checkout")
    return SHARED_DATA


@pytest.fixture
def tiny_net():
    """Factory of students: tiny_net(dimensions, channels, regions)."""

    def make(dimensions: int = 2, channels: int = 2, regions: bool = False, seed: int = 0) -> Net:
        return Net(tiny_network(dimensions, channels, seed), kind(channels, regions))

    return make


@pytest.fixture(scope="module")
def inductor(tmp_path_factory):
    """Inductor in this process, with a folder of its own: of what it compiles for one method the next may use parts."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"inductor needs a C++ compiler, and there is no {COMPILER}")
    folder = tmp_path_factory.mktemp("inductor")
    with (
        pytest.MonkeyPatch.context() as patched,
        torch._inductor.config.patch(compile_threads=1, fx_graph_cache=False),
    ):
        patched.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        yield folder
    torch.compiler.reset()


@pytest.fixture(scope="session")
def phantom_3d(tmp_path_factory) -> Dataset:
    """Three classes in 3D, 2 folds."""
    return phantom(tmp_path_factory.mktemp("phantom3d"), "3d_fullres", [16, 16, 16], shape=(18, 24, 24))


@pytest.fixture(scope="session")
def phantom_2d_regions(tmp_path_factory) -> Dataset:
    """Two overlapping regions in 2D PNG images, 2 folds."""
    return phantom(tmp_path_factory.mktemp("phantom2d"), "2d", [32, 32], shape=(48, 48), regions=True)


@pytest.fixture
def called(monkeypatch, capsys):
    """Runs the command in this process; gives its exit status and what it printed."""

    from nnunet_ssl.cli import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["nnunet_ssl", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return call
