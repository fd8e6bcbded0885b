"""The layouts of the helps: their protocols are those of the lists, and each data set has one."""

import re

import pytest

from nnunet_ssl.cli.convert import app
from nnunet_ssl.conversion.layouts import LAYOUTS
from nnunet_ssl.conversion.protocols import choose, published

ROW = re.compile(r"([\w-]+) +(\d+) labeled \+ +(\d+) unlabeled, +(\d+) test(?:, +(\d+) validation)?( \(default\))?")


def test_every_data_set_has_a_layout():
    assert {command.name for command in app.registered_commands} == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_protocols_and_their_counts_are_those_of_the_lists(name):
    rows = [match.groups() for line in LAYOUTS[name].splitlines() if (match := ROW.search(line))]
    assert {row[0] for row in rows} == set(published(name))
    assert len([row for row in rows if row[5]]) == bool(rows)
    for protocol, *counts, _ in rows:
        parts = choose(name, protocol, protocol, validate=counts[3] is not None).parts
        assert [len(ids) for ids in parts.values()] == [int(count) for count in counts if count is not None]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_help_fits_80_columns(name):
    assert max(len(line) - 8 + 2 for line in LAYOUTS[name].splitlines()) <= 80
