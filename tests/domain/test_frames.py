"""The bytes of a frame."""

from hypothesis import given
from hypothesis import strategies as st

from runs_domain.frames import TextDelta, decode, encode

LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(LINE_ENDS)))
def test_a_chunk_is_one_line_for_every_reader_of_lines(text: str) -> None:
    frame = TextDelta("1", text)

    chunk = encode(frame)

    assert len(chunk.decode().splitlines()) == 1
    assert decode(chunk) == frame
