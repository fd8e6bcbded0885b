"""Early signs of collapse, each with what it must not be taken for."""

import math

from nnunet_ssl.training.early_signs import signs, signs_of_phase


def history(**shares):
    return {f"predicted_share[{name}]": values for name, values in shares.items()}


def test_a_class_that_was_found_and_is_no_more():
    shares = history(liver=[0.1, 0.2, 0.2, 0.2], spleen=[0.02, 0, 0, 0])
    found = signs(shares, [[0.5, 0.4], [0.6, 0], [0.6, 0], [0.6, 0]])
    assert list(found) == ["lost spleen"] and "0 for 3 epochs, 0.02 before" in found["lost spleen"]
    assert not signs(history(spleen=[0.0] * 4), [[0.0]] * 4)  # never found yet: a beginning
    assert not signs(history(spleen=[0.02, 0, 0]), [[0.4], [0], [0]])  # two epochs may be chance
    assert not signs(history(spleen=[0.02, 0, 0, 0]), [[0.4], *[[math.nan]] * 3])  # the patches have none


def test_a_class_that_is_everywhere():
    assert list(signs(history(liver=[0.99] * 3), [[0.2]] * 3)) == ["only liver"]
    assert not signs(history(liver=[0.99] * 3), [[0.97]] * 3)  # and rightly so
    assert not signs(history(liver=[0.5] * 3), [[0.2]] * 3)


def test_two_networks_that_are_the_same_from_the_start():
    assert list(signs({"agreement": [1.0, 1.0, 1.0]}, [])) == ["agreement"]
    assert not signs({"agreement": [0.7, 1.0, 1.0, 1.0, 1.0]}, [])
    assert not signs({"agreement": [1.0, 1.0]}, [])


def test_a_phase_whose_teacher_lacks_a_class():
    shares = history(liver=[0.1, 0.2], spleen=[0.02, 0])
    found = signs_of_phase(shares, [[0.5, 0.4], [0.6, 0]], 1)
    assert list(found) == ["phase 1 without spleen"] and "larger start" in found["phase 1 without spleen"]
    assert not signs_of_phase(shares, [[0.5, 0.4], [0.6, math.nan]], 1)
    assert not signs_of_phase({}, [], 1)
