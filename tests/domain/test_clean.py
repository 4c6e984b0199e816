"""Text from outside, made storable: nothing more is changed than must be."""

import pytest

from runs_domain.clean import clean_json, clean_text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("as it was \U0001f600", "as it was \U0001f600"),
        ("a\0b", "a\ufffdb"),
        ("\ud83d", "\ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83dx", "\ufffdx"),
        ("\ud83d\ude00", "\U0001f600"),
    ],
)
def test_halves_that_belong_together_are_joined_and_what_cannot_be_stored_is_replaced(
    text: str, cleaned: str
) -> None:
    assert clean_text(text) == cleaned
    assert clean_json({text: [text]}) == {cleaned: [cleaned]}
