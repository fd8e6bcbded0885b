"""Stands in for cleanlab where it is not installed, see `tests/conftest.py`."""
