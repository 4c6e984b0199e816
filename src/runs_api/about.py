"""What a route says of itself in the OpenAPI document, beside what its code does.

`tests/contract/test_api_described.py` holds the two together: each answer that is listed has been
given, and none was given that is not listed.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

ABOUT: Final = "about"
JSON: Final = "application/json"


class Answer(NamedTuple):
    """`body` is JSON; `texts` are other media types that it may come in, each with a word on it."""

    description: str
    body: type[msgspec.Struct] | None = None
    headers: tuple[str, ...] = ()
    texts: Mapping[str, str] = {}
    example: Mapping[str, Any] | None = None
    """A body as it may be."""


class Parameter(NamedTuple):
    """One that the framework does not read for us."""

    name: str
    where: Literal["query", "header"]
    schema: dict[str, Any]
    description: str


class About(NamedTuple):
    answers: Mapping[int, Answer]
    errors: tuple[int, ...]
    """Statuses of the envelope, beside those that every route may answer with."""
    parameters: tuple[Parameter, ...]
    body: type[msgspec.Struct] | None


def about(
    answers: Mapping[int, Answer],
    *,
    errors: tuple[int, ...] = (),
    parameters: tuple[Parameter, ...] = (),
    body: type[msgspec.Struct] | None = None,
) -> dict[str, About]:
    """A part of a handler's `opt`."""
    return {ABOUT: About(answers, errors, parameters, body)}
