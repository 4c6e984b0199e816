"""Which of two media types a client would rather have: its `Accept` headers, by their weights."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

_WEIGHT: Final = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


def prefers(accept: Iterable[str], special: str, usual: str) -> bool:
    """Whether `special` was asked for by its name and `usual` is not weighed higher.

    A type of weight 0 is refused; one whose weight is not a weight does not count.
    """
    weights = dict(_weighed(",".join(accept)))
    asked = weights.get(special, 0.0)
    return asked > 0 and asked >= _weight_of(usual, weights)


def _weight_of(media_type: str, weights: Mapping[str, float]) -> float:
    """Of the most specific range that takes it in."""
    main = media_type.partition("/")[0]
    ranges = (media_type, f"{main}/*", "*/*")
    return next((weights[one] for one in ranges if one in weights), 0.0)


def _weighed(accept: str) -> Iterable[tuple[str, float]]:
    for item in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in item.split(";"))
        given = [one.removeprefix("q=") for one in parameters if one.startswith("q=")]
        weight = given[0] if given else "1"
        if _WEIGHT.fullmatch(weight):
            yield media_type, float(weight)
