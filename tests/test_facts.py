"""The entries of facts.yaml: whole, with values that are known, and a line that says what is not."""

import pytest

from nnunet_ssl.errors import InputError
from nnunet_ssl.facts import Pass, facts_from, read_facts

FACTS = read_facts()
ENTRY = {
    "title": "T", "authors": "A. One", "venue": "MICCAI", "year": 2019, "doi": "10.1/2", "arxiv": "1.2",
    "networks": "one", "predicts": "student", "passes": [["learn", "student", 2], ["look", "teacher", 1]],
    "cost": "1.17", "cost_detail": "", "changes": [], "figures": [], "tests": {"silent": {"weight": 0}},
}  # fmt: skip


@pytest.mark.parametrize("name", FACTS)
def test_facts_are_well_formed(name):
    facts = FACTS[name]
    assert 1990 < facts.year < 2100 and facts.title and facts.networks and facts.cost and facts.changes
    for figure in facts.figures:
        assert 0 < figure.dice < 100 and isinstance(figure.source, str)
        assert all(distance is None or distance > 0 for distance in (figure.hd95, figure.asd))


def test_passes_and_what_they_cost():
    """A backward to the weights and one to the input cost a forward each; 1 is a step on both kinds of patches."""
    assert facts_from("Mine", ENTRY).passes == [Pass("learn", "student", 2), Pass("look", "teacher", 1)]
    costs = {kind: Pass(kind, "student", 2).cost for kind in ("learn", "look", "trace")}
    assert costs == pytest.approx({"learn": 1, "look": 1 / 3, "trace": 2 / 3})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"passes": None}, "lacks passes; the head of the file says what these are."),
        ({"colour": "red"}, "unknown colour; the head of the file lists the fields."),
        ({"tests": {"quiet": {}}}, "tests: lacks silent; "),
        ({"tests": {"silent": {}, "small": {}}}, "tests: unknown small; "),
        ({"passes": [["learn", "student"]]}, "passes has ['learn', 'student'], which is not [kind, network, batches]."),
        ({"passes": [["teach", "student", 2]]}, "passes of kind teach: there are learn, look, trace."),
        ({"predicts": "all"}, "predicts is 'all', not one of: student, first network, teacher, mean of both."),
    ],
)
def test_a_fault_of_an_entry_is_named(changed, said):
    entry = {name: value for name, value in (ENTRY | changed).items() if value is not None}
    with pytest.raises(InputError) as told:
        facts_from("Mine", entry)
    assert str(told.value).startswith("nnunet_ssl/methods/facts.yaml, Mine") and said in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("authors", "paper"),
    [
        ("A. One", "One, MICCAI 2019"),
        ("A. One and B. C. Two", "One and Two, MICCAI 2019"),
        ("A. van One, B. Two and C. Three", "van One et al., MICCAI 2019"),
    ],
)
def test_short_citation(authors, paper):
    facts = facts_from("Mine", ENTRY | {"authors": authors})
    assert facts.paper == paper
    assert facts.citation.endswith("MICCAI 2019, doi:10.1/2, arXiv:1.2")
