"""How many of what, in words."""


def many(count: int, what: str) -> str:
    """`1 run`, `2,000 runs`, `2 VIOLATIONS`."""
    plural = "" if count == 1 else "S" if what.isupper() else "s"
    return f"{count:,} {what}{plural}"
