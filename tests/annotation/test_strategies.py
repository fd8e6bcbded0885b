"""The order in which cases are chosen, and what is said of them."""

import numpy as np
import pytest

from nnunet_ssl.annotation import scores
from nnunet_ssl.annotation.scores import CaseScores, ClassScores, within_pool
from nnunet_ssl.annotation.strategies import STRATEGIES, Choice, Labeled, choose, require
from nnunet_ssl.errors import InputError

NOBODY = Labeled((), None)


def case(name, liver=0.0, gland=0.0, **scores) -> CaseScores:
    by_class = {"liver": ClassScores(100, 0.25, liver), "gland": ClassScores(10, 0.41, gland)}
    return CaseScores(name, **({"instability": 0.0, "mutual_information": 0.0, "descriptor": None} | scores),
                      by_class=by_class)  # fmt: skip


def order(strategy, pool, n=9, labeled=NOBODY):
    return [choice.scores.case for choice in choose(strategy, pool, labeled, n)]


def in_space(*places, labeled):
    """Cases a, b, c... with descriptors, and the labeled ones l0, l1..."""
    known = Labeled(tuple(f"l{n}" for n in range(len(labeled))), np.array(labeled, float))
    pool = [case(name, liver=0.1, descriptor=place) for name, place in zip("abcdefgh", places, strict=False)]
    return within_pool(pool, known.descriptors, [0.0] * len(pool)), known


def test_entropy_takes_one_case_for_each_class_although_one_has_the_two_highest():
    pool = [case("a", liver=0.9), case("b", liver=0.8), case("c", gland=0.1), case("d", liver=0.2)]
    assert order("entropy", pool, 2) == ["a", "c"]
    assert order("entropy", pool) == ["a", "c", "b", "d"]


def test_no_more_is_chosen_than_asked_for(monkeypatch):
    chosen = []

    def strategy(pool, labeled):
        for each in pool:
            chosen.append(each.case)
            yield Choice(each, "It is there")

    monkeypatch.setitem(STRATEGIES, "random", strategy)
    assert order("random", [case("a"), case("b"), case("c")], 2) == ["a", "b"] == chosen


def test_densities_are_the_same_block_by_block_and_no_block_is_as_large_as_the_square(monkeypatch):
    places = np.random.default_rng(0).random((37, 5))
    whole = scores.densities(places, 4)
    blocks, partition = [], np.partition
    monkeypatch.setattr(scores, "BLOCK", 37 * 5)
    monkeypatch.setattr(np, "partition", lambda block, *rest, **more: (blocks.append(block.size), partition(
        block, *rest, **more))[1])  # fmt: skip
    np.testing.assert_allclose(scores.densities(places, 4), whole, rtol=0, atol=1e-15)
    assert blocks == [5 * 37] * 7 + [2 * 37]


def test_entropy_begins_with_the_class_of_the_largest():
    pool = [case("a", liver=0.2), case("b", gland=0.6), case("c", liver=0.3, gland=0.5)]
    assert order("entropy", pool) == ["b", "c", "a"]


def test_entropy_counts_with_the_density():
    pool = [case("a", liver=0.6, density=0.5), case("b", liver=0.4, density=1.0)]
    assert order("entropy", pool) == ["b", "a"]


def test_entropy_puts_what_the_model_is_sure_of_last():
    choices = choose("entropy", [case("a"), case("b", gland=0.3)], NOBODY, 2)
    assert [(choice.scores.case, choice.reason) for choice in choices] == [
        ("b", "The gland is uncertain in 41 % of its voxels."),
        ("a", "The model is sure of all there."),
    ]


def test_boostmis_takes_both_selectors_in_turns_and_each_case_once():
    pool = [
        case("a", liver=0.1, instability=3.0),
        case("b", liver=0.9, instability=1.0),
        case("c", liver=0.2, instability=2.0),
    ]
    assert order("boostmis", pool) == ["a", "b", "c"]
    assert order("boostmis", pool, 2) == ["a", "b"]
    reasons = [choice.reason for choice in choose("boostmis", pool, NOBODY, 2)]
    assert reasons == [
        "A small push at the head changes the prediction more than in any other unlabeled case.",
        "The liver is uncertain in 25 % of its voxels.",
    ]


def test_mutual_information_and_random_take_the_largest():
    pool = [case("a", mutual_information=0.1, random=0.3), case("b", mutual_information=0.2, random=0.1)]
    assert order("mutual-information", pool) == ["b", "a"]
    assert order("random", pool) == ["a", "b"]


def test_diversity_takes_the_farthest_and_no_duplicate_of_a_chosen_case():
    pool, labeled = in_space((9, 0), (9, 0), (0, 4), (1, 0), labeled=[(0, 0)])
    assert order("diversity", pool, 3, labeled) == ["a", "c", "d"]
    assert order("diversity", pool, 4, labeled) == ["a", "c", "d", "b"]
    first, second = choose("diversity", pool, labeled, 2)
    assert first.reason == "The nearest labeled or chosen case, l0 (labeled), is at 9.000, the farthest in the pool."
    assert second.reason == "The nearest labeled or chosen case, l0 (labeled), is at 4.000."


def test_diversity_tells_what_a_chosen_case_stands_for():
    pool, labeled = in_space((9, 0), (9, 2), labeled=[(0, 0)])
    assert [choice.reason for choice in choose("diversity", pool, labeled, 2)][1] == (
        "The nearest labeled or chosen case, b (chosen), is at 2.000."
    )


def test_nothing_like_it_is_labeled():
    """Farther from all labeled cases than these are from their nearest other one, which is 2 at most."""
    pool, labeled = in_space((0, 2.5), (0, 1), labeled=[(0, 0), (1, 0), (3, 0)])
    reasons = [choice.reason for choice in choose("random", pool, labeled, 2)]
    assert reasons == ["Drawn by chance, the control; nothing like it is labeled.", "Drawn by chance, the control."]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ties_are_broken_by_name_and_all_can_be_taken(strategy):
    pool, labeled = in_space((1, 0), (1, 0), (1, 0), labeled=[(0, 0)])
    assert order(strategy, [pool[2], pool[0], pool[1]], 3, labeled) == ["a", "b", "c"]
    assert order(strategy, [pool[2], pool[0], pool[1]], 1, labeled) == ["a"]


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("boostmis", "the network has no encoder and decoder"),
        ("diversity", "the network has no encoder and decoder"),
        ("mutual-information", "one fold without mirroring is a single pass"),
        ("best", "there is no such strategy; there are boostmis, entropy, mutual-information, diversity, random."),
    ],
)
def test_a_strategy_that_is_none_or_lacks_its_score_is_refused(strategy, words):
    with pytest.raises(InputError) as caught:
        require(strategy, set())
    assert str(caught.value).startswith(f"--strategy {strategy}: {words}") and "\n" not in str(caught.value)
    for name in ("entropy", "random"):
        require(name, set())
