"""What the report reads from the sources is what importing them gives."""

from nnunet_ssl.catalog import read_catalog
from nnunet_ssl.report.methods import read_methods


def test_the_methods_read_are_those_of_the_catalog():
    expected = {
        trainer.name: (entry.name, entry.idea, entry.facts.paper, entry.facts.citation)
        for entry in read_catalog()
        for trainer in entry.trainers
    }
    assert read_methods() == expected and len(expected) > 20
