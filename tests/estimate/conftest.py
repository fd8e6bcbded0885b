"""What the tests of the estimate share."""

from pathlib import Path

import pytest
from workbench import phantom


@pytest.fixture(scope="session")
def phantom_3d_four_stages(tmp_path_factory):
    """As `phantom_3d`, with a network of four stages, for methods that compare two scales."""
    root = tmp_path_factory.mktemp("phantom3d_four")
    return phantom(root, "3d_fullres", [16, 16, 16], stages=4, shape=(18, 24, 24))


@pytest.fixture
def benchmarks_folder() -> Path:
    return Path(__file__).resolve().parents[2] / "benchmarks"
