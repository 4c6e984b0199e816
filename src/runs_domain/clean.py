"""Model and tool output as it may be stored and streamed. PostgreSQL's text and jsonb refuse
U+0000, UTF-8 a lone surrogate: both become U+FFFD; two halves side by side become their character.
The AI SDK's clients end a stream at a key that could change a JavaScript prototype: it gets a
U+FFFD in front. Input from clients is not cleaned but refused (`messages`).
"""

import re
from typing import Any, Final

REPLACEMENT: Final = "\ufffd"
UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


def clean_text(text: str) -> str:
    if UNSTORABLE.search(text) is None:
        return text
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\0", REPLACEMENT)


def clean_key(key: str, value: Any) -> str:
    """The key of `value` in an object."""
    pollutes = key == "__proto__" or (
        key == "constructor" and isinstance(value, dict) and "prototype" in value
    )
    return REPLACEMENT + key if pollutes else clean_text(key)


def clean_json(value: Any) -> Any:
    """The JSON value with every string in it cleaned, keys included."""
    match value:
        case str():
            return clean_text(value)
        case list():
            return [clean_json(item) for item in value]
        case dict():
            return {clean_key(key, item): clean_json(item) for key, item in value.items()}
        case _:
            return value
