"""What a chat completion used and cost, from the server's own count. Pure."""

from decimal import Decimal, InvalidOperation

import msgspec

from runs_domain.events import Usage


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class ChatUsage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    cost: float | str | None = None


def usage_of(usage: ChatUsage | None) -> Usage:
    """Disjoint classes (incident I-51): the server's totals include what its details name."""
    if usage is None:
        return Usage()
    into = usage.prompt_tokens_details or _InputDetails()
    out_of = usage.completion_tokens_details or _OutputDetails()
    cached, written = into.cached_tokens or 0, into.cache_write_tokens or 0
    reasoning = out_of.reasoning_tokens or 0
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    apart = reasoning > 0 and usage.total_tokens == prompt + completion + reasoning
    return Usage(
        input_tokens=max(prompt - cached - written, 0),
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=completion if apart else max(completion - reasoning, 0),
        reasoning_tokens=reasoning,
    )


def cost_of(usage: ChatUsage | None) -> str | None:
    """US dollars as the server counts them, without an exponent; None if it does not say."""
    if usage is None or usage.cost is None:
        return None
    try:
        cost = Decimal(str(usage.cost))
    except InvalidOperation:
        return None
    return f"{cost:f}" if cost.is_finite() and cost >= 0 else None
