"""What a converter left out, repaired or assumed, as it is recorded and said."""

from nnunet_ssl.conversion.notes import Note, in_words, merged


def test_notes_that_say_the_same_are_put_together():
    notes = [
        Note("left out", "no spacing", ("a",)),
        Note("flipped", "by its border", ("b",), {"b": {"margin in HU": 12.0}}),
        Note("cropped", "by the source"),
        Note("left out", "no spacing", ("c", "a")),
        Note("left out", "withdrawn", ("d",)),
        Note("flipped", "by its border", ("e",), {"e": {"margin in HU": 7.25}}),
        Note("cropped", "by the source"),
    ]
    assert merged(notes) == [
        Note("left out", "no spacing", ("a", "c")),
        Note("flipped", "by its border", ("b", "e"), {"b": {"margin in HU": 12.0}, "e": {"margin in HU": 7.25}}),
        Note("cropped", "by the source"),
        Note("left out", "withdrawn", ("d",)),
    ]


def test_in_words():
    measured = {"b": {"margin in HU": 12.0}, "e": {"margin in HU": 7.25}}
    lines = {
        "cropped (all cases): by the source.": Note("cropped", "by the source"),
        "left out (a): no spacing.": Note("left out", "no spacing", ("a",)),
        "flipped (2 cases: b, e; margin in HU 7.25 to 12): by its border.": Note(
            "flipped", "by its border", ("b", "e"), measured
        ),
        "flipped (2 cases: e, f; margin in HU 7.25): by its border.": Note(
            "flipped", "by its border", ("e", "f"), {"e": measured["e"], "f": {"margin in HU": 7.2504}}
        ),
        "left out (12 cases: c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, and 2 more): old.": Note(
            "left out", "old", tuple(f"c{i}" for i in range(12))
        ),
    }
    for line, note in lines.items():
        assert in_words(note.record()) == line
