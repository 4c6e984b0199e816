"""What a check of views has found, for people and as JSON."""

import msgspec
from operating.counted import many

from runs_domain.storage.view_check import Checked, Found
from runs_domain.storage.view_compare import CONTENT, Difference

NOTHING = "nothing"


def print_findings(found: Found, *, as_json: bool, would: bool) -> int:
    """The exit code. `would`: it is told as what a rebuild would do, which lets a view that stands
    still go on; in a check that is a finding.
    """
    stand_still = not would and any(view.stopped_position is not None for view in found.views)
    is_right = found.is_right and not stand_still
    if as_json:
        print(_json(found, is_right=is_right))
    else:
        _print(found, would=would)
    return 0 if is_right else 1


def _print(found: Found, *, would: bool) -> None:
    print(f"{many(found.events, 'event')} of {many(found.runs, 'run')}")
    for view in found.views:
        _print_view(view, would=would)
    for sentence in found.faults:
        print(f"CANNOT BE FOLDED: {sentence}")
    left = found.faults_count - len(found.faults)
    if left:
        print(f"… and {left:,} more that cannot be folded")


def _print_view(view: Checked, *, would: bool) -> None:
    counts = view.counts
    told = [f"{counts.same:,} same", f"{counts.changed:,} changed"]
    told += [f"{counts.missing:,} missing", f"{counts.extra:,} extra"]
    if counts.unreadable:
        told.append(f"{counts.unreadable:,} of erased accounts")
    verdict = "ok" if view.is_right else "WOULD CHANGE" if would else "DIFFERS"
    print(f"{view.name:<10} {verdict:<12} at position {view.checkpoint}: {', '.join(told)}")
    if view.is_beyond_the_end:
        print(f"{'':11}its checkpoint is beyond the log's end, which is {view.log_end}")
    if view.stopped_position is not None:
        at = "" if view.stopped_at is None else view.stopped_at.isoformat(timespec="seconds")
        print(
            f"{'':11}it stands still before position {view.stopped_position} since {at}:"
            f" {view.stopped_error}"
        )
    for one in view.differences:
        _print_difference(one)
    left = counts.differing - len(view.differences)
    if left:
        print(f"{'':11}… and {left:,} more")


def _print_difference(one: Difference) -> None:
    print(f"{'':11}{one.kind:<8} {' '.join(one.key)}")
    if one.kind != "changed":
        return
    for name, (old, new) in one.columns.items():
        said = "message differs: " if name == CONTENT else f"{name}: "
        print(f"{'':20}{said}{NOTHING if old is None else old} → {NOTHING if new is None else new}")


def _json(found: Found, *, is_right: bool) -> str:
    views = [
        msgspec.to_builtins(view) | {"beyondTheEnd": view.is_beyond_the_end, "right": view.is_right}
        for view in found.views
    ]
    whole = {
        "ok": is_right,
        "events": found.events,
        "runs": found.runs,
        "views": views,
        "faults": found.faults,
        "faultsCount": found.faults_count,
    }
    return msgspec.json.encode(whole).decode()
