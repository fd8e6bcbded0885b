"""Early signs of collapse, each with what it must not be taken for."""

import json
import math
from pathlib import Path

import pytest

from nnunet_ssl.methods.crest import CReST
from nnunet_ssl.methods.self_training import SelfTraining
from nnunet_ssl.schedules import Phases
from nnunet_ssl.training.early_signs import signs, signs_of_phase

ONE_PHASE = Phases([], 40)
RECORDS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.json"))
BEGUN_ANEW = {each.__name__: each().phases for each in (SelfTraining, CReST)}  # whose phases forget what was learned
TWO_PHASES = Phases([40], 80)
LEARNED = [0.0, 0.53, 0.48, 0.66, 0.56, 0.62]  # pseudo Dice of a class as a training finds it


def history(**shares):
    return {f"predicted_share[{name}]": values for name, values in shares.items()}


def curve(*dice):
    """The history of one class whose share is as large as its Dice, and the Dice."""
    return history(spleen=[0.0 if math.isnan(each) else each for each in dice]), [[each] for each in dice]


def ever(terms, dice, phases):
    """What is warned of in any epoch, with the first one."""
    warned = {}
    for epoch in range(len(dice)):
        so_far = {name: values[: epoch + 1] for name, values in terms.items()}
        for name in signs(so_far, dice[: epoch + 1], phases):
            warned.setdefault(name, epoch)
    return warned


def test_a_class_that_was_found_and_is_no_more():
    terms, dice = curve(*LEARNED, 0, 0, 0)
    found = signs(terms, dice, ONE_PHASE)
    assert list(found) == ["lost spleen"] and "0 after 3 epochs, 0.66 before" in found["lost spleen"]
    assert ever(terms, dice, ONE_PHASE) == {"lost spleen": 8}
    assert ever(*curve(*LEARNED, 0.002, 0.004, 0.001), ONE_PHASE) == {"lost spleen": 8}  # some stray voxels are left
    assert ever(*curve(*LEARNED, 0, math.nan, 0, math.nan, 0), ONE_PHASE) == {"lost spleen": 10}


@pytest.mark.parametrize(
    "dice",
    [
        [0.0] * 9,  # never found yet: a beginning
        [*LEARNED, 0, 0],  # two epochs may be chance
        [*LEARNED, *[math.nan] * 5],  # the patches have none
        [*LEARNED, 0.2, 0, 0, 0.3, 0],
    ],
)
def test_a_class_that_is_not_lost(dice):
    assert not ever(*curve(*dice), ONE_PHASE)


def test_a_class_that_flickers_when_it_is_found_first():
    """The right ventricle in a training on ACDC that ended with a Dice of 0.94; and organs, found late."""
    shares = [0, 0, 0, 0, 0.02748, 0, 0, 0, 0, 0, 0.0343, 0.0387, 0.0362]
    dice = [0, 0, 0, 0, 0.3972, 0, 0, 0, 0, 0, 0.6738, 0.7229, 0.764]
    assert not ever(history(right_ventricle=shares), [[each] for each in dice], ONE_PHASE)
    assert not ever(*curve(0, 0, 0, 0.06, 0, 0, 0, 0.26, 0, 0.27, 0.52, 0.47, 0.75, 0.91, 0.8, 0, 0.94), ONE_PHASE)
    assert not ever(*curve(0, 0, 0.35, 0.61, 0.56, 0, 0, 0, 0, 0.15, 0.25), ONE_PHASE)


def test_a_network_that_a_phase_begins_anew_learns_the_class_again():
    """Self-training on ACDC: the second network misses the right ventricle for eight of its 40 epochs."""
    begun = [*[0.95] * 40, *[0.0] * 8]
    assert not ever(*curve(*begun, 0.62, 0.69, 0.8), TWO_PHASES)
    assert ever(*curve(*begun, *[0.0] * 5), TWO_PHASES) == {"lost spleen": 52}  # a quarter of the phase, and three


def test_a_class_that_is_everywhere():
    assert list(signs(history(liver=[0.99] * 3), [[0.2]] * 3, ONE_PHASE)) == ["only liver"]
    assert not signs(history(liver=[0.99] * 3), [[0.97]] * 3, ONE_PHASE)  # and rightly so
    assert not signs(history(liver=[0.5] * 3), [[0.2]] * 3, ONE_PHASE)


def test_two_networks_that_are_the_same_from_the_start():
    def warned(agreement, shares=(0.04, 0.04, 0.04, 0.04, 0.04)):
        return list(signs({"agreement": agreement, **history(atrium=shares)}, [[0.2]] * len(agreement), ONE_PHASE))

    assert warned([1.0, 1.0, 1.0]) == ["agreement"]
    assert not warned([0.97, 1.0, 1.0, 1.0, 1.0])
    assert not warned([1.0, 1.0])
    # both say background alone at first: an atrium of 4 % of the scan is found with the second epoch, or never
    assert not warned([1.0, 0.981, 0.9868, 0.9901, 0.9921], [0, 0.047, 0.0397, 0.044, 0.0414])
    assert not warned([1.0] * 5, [0.0] * 5)
    # a lesion of one voxel in 20 000: networks that share none of it agree on 0.9999 of the scan
    assert not warned([0.9999, 0.99992, 0.99994], [5e-5] * 3)


def test_a_loss_that_a_method_calls_agreement_is_no_share():
    assert not signs({"agreement": [4.8, 4.1, 3.7], **history(atrium=[0.04] * 3)}, [[0.2]] * 3, ONE_PHASE)


def test_a_phase_whose_teacher_lacks_a_class():
    shares = history(liver=[0.1, 0.2, 0.2], spleen=[0, 0, 0])
    found = signs_of_phase(shares, [[0.5, 0], [0.6, 0], [0.6, 0]], 1)
    assert list(found) == ["phase 1 without spleen"] and "larger start" in found["phase 1 without spleen"]
    assert not signs_of_phase(shares, [[0.5, math.nan]] * 3, 1)
    assert not signs_of_phase(history(spleen=[0.02, 0.02, 0]), [[0.93], [0.94], [0]], 1)  # one epoch is chance
    assert not signs_of_phase({}, [], 1)


def recorded(file):
    """The Dice of a record by epoch and class, and a history whose shares are as large."""
    record = json.loads(file.read_text(encoding="utf-8"))
    rows = [[math.nan if each is None else each for each in row] for row in record["learning_curve"]["pseudo_dice"]]
    columns = enumerate(zip(*rows, strict=True))
    return history(**{str(number): [0 if math.isnan(x) else x for x in column] for number, column in columns}), rows


def test_no_false_alarm_in_the_recorded_trainings():
    """A class that a training has at its end was not lost."""
    alarms = {}
    for file in RECORDS:
        terms, rows = recorded(file)
        fractions = next((each for name, each in BEGUN_ANEW.items() if f"_{name}_" in file.name), ())
        phases = Phases.at(fractions, len(rows))
        false = [name for name in ever(terms, rows, phases) if rows[-1][int(name.split()[-1])] > 0.3]
        alarms |= {file.name: false} if false else {}
    assert len(RECORDS) > 100 and not alarms


def test_a_recorded_training_whose_teacher_lacked_two_classes():
    """BCP on the phantom, too short for its two rarest classes: it never had them."""
    lacking = {}
    for file in RECORDS:
        if file.name.startswith("phantom_2_BCP"):
            terms, rows = recorded(file)
            half = len(rows) // 2
            before = {name: values[:half] for name, values in terms.items()}
            lacking[file.name] = list(signs_of_phase(before, rows[:half], 1))
    assert lacking.pop("phantom_2_BCP_default_1000_seed0.json") == ["phase 1 without 2", "phase 1 without 3"]
    assert len(lacking) > 1 and not any(lacking.values())  # four times as long, they are there
