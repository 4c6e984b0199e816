"""The bytes of an event are one clean JSON object, or the proof refuses them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runs_domain.proof
from runs_domain.proof import StreamProof, strict_json
from runs_domain.storage.history_check import quick_json
from tests.support.builders import RUN


@pytest.mark.parametrize(
    "stored_bytes",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"{} {}",
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":[{"b":1,"b":2}]}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\uDFFF"}',
        b'{"a":"\xff"}',
        b'\xef\xbb\xbf{"a":1}',
        "{}".encode("utf-16"),
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=range(17),
)
@pytest.mark.parametrize("decode", [strict_json, quick_json])
def test_bytes_that_are_not_one_clean_object_are_refused(
    stored_bytes: bytes, decode: Callable[[bytes], object]
) -> None:
    fault = StreamProof(str(RUN), decode=decode).take(1, "run.requested.v1", stored_bytes)
    assert fault is not None
    assert fault.kind == "bytes"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(value=JSON, ascii_only=st.booleans(), tight=st.booleans(), cut=st.integers(0, 3))
def test_the_quick_decoder_says_what_the_strict_one_says(
    value: object, *, ascii_only: bool, tight: bool, cut: int
) -> None:
    separators = (",", ":") if tight else (", ", ": ")
    text = json.dumps(value, ensure_ascii=ascii_only, separators=separators)
    raw = text.encode("utf-8", "surrogatepass")[cut:]
    try:
        expected = strict_json(raw)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - which one is nobody's concern
            quick_json(raw)
    else:
        assert quick_json(raw) == expected


def test_the_proof_needs_nothing_but_the_standard_library() -> None:
    source = Path(runs_domain.proof.__file__).parents[1]
    code = (
        f"import sys; sys.path.append({str(source)!r}); import runs_domain.proof;"
        " assert not {'msgspec', 'psycopg', 'typing_extensions'} & set(sys.modules)"
    )
    python = str(Path(sys.executable).resolve())
    subprocess.run([python, "-S", "-c", code], check=True, timeout=30)  # noqa: S603 - our own argv
