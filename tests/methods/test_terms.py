"""Every term that a method logs is explained, and no other, in each preset, early and late."""

import pytest
from battery import METHODS, facts_of
from tiny_steps import EARLY, LATE, batches, ready

from nnunet_ssl.facts import OF_EVERY_METHOD, read_facts, read_yaml


def logged(method, values):
    """Names without their class, of the terms and the report of two steps."""
    names = {}
    for now in (EARLY, LATE):
        net, made = ready(method, 2, 3, False, **values)
        terms = made.losses(net, *batches(2, 3, False), now)
        sum(terms.values()).backward()
        made.after_step(net, now)
        names |= dict.fromkeys(name.partition("[")[0] for name in (*terms, *made.report))
    return names


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_every_logged_term_is_explained(method):
    if method.__name__ == "ACMT_SErr":
        pytest.importorskip("cleanlab")
    found = {}
    for name in ("default", *method.presets):
        found |= logged(*method.of_preset(name))
    explained = {*facts_of(method).terms} - {OF_EVERY_METHOD}
    assert set(found) == explained, f"facts.yaml, {method.__name__}: terms: {{{', '.join(found)}}}"


def test_no_explanation_is_left_over():
    used = {name for facts in read_facts().values() for name in facts.terms}
    assert not read_yaml("terms.yaml").keys() - used


def test_an_explanation_of_its_own_goes_before_the_common_one():
    facts = read_facts()
    assert "Jensen-Shannon" in facts["DCT"].terms["agreement"].meaning
    assert facts["CPS"].terms["agreement"].meaning.startswith("share of voxels")
