"""What a wrong name is answered with."""

from nnunet_ssl.names import drawn, suggestion


def test_the_nearest_names_then_all():
    assert suggestion("UAMTT", ["ACMT", "CPS", "UAMT"]) == "Did you mean UAMT or ACMT? There are ACMT, CPS, UAMT."
    assert suggestion("zzz", ["CPS"]) == "There are CPS."
    assert suggestion("zzz", []) == "There are none."


def test_case_and_hyphens_count_for_nothing():
    assert suggestion("mean-teacher", ["CPS", "MeanTeacher"]).startswith("Did you mean MeanTeacher?")


def test_a_name_is_drawn_as_it_is():
    assert drawn("left_kidney") == "left_kidney"
    assert drawn("a$b$") == r"a\$b\$" and drawn("_organ") == " _organ"
