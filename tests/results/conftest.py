"""Fixtures of the evaluation's tests."""

import pytest


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "labelsTs", tmp_path / "predictions"
