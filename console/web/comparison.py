"""What the API is asked of a comparison."""

from __future__ import annotations

from typing import Any, Final

from console.web.answers import ApiError

_NUMBERS: Final = {"sample": (1, 1 << 40), "rounds": (1, 1000), "pause_s": (0, 3600), "rate": (0, 1e9)}
_MEANS: Final = ("auto", "echo", "fetch", "write")


def read_comparison(body: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """(repair?, options of the job). Raises `ApiError` that lists all mistakes."""
    problems: list[dict[str, str]] = []
    options: dict[str, Any] = {}
    for name, value in body.items():
        if name == "repair":
            good = isinstance(value, bool)
        elif name == "pattern":
            good = isinstance(value, str) and 0 < len(value) <= 1000
        elif name == "means":
            good = value in _MEANS
        elif name in _NUMBERS:
            least, most = _NUMBERS[name]
            good = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
            good = good and (name not in ("sample", "rounds") or isinstance(value, int))
        else:
            problems.append({"path": name, "message": f"{name} is not known"})
            continue
        if not good:
            problems.append({"path": name, "message": f"{name} cannot be {str(value)[:40]!r}"})
        elif name != "repair":
            options[name] = value
    if "sample" in options and "pattern" in options:
        problems.append({"path": "sample", "message": "give sample or pattern, not both"})
    if problems:
        raise ApiError(422, "invalid", problems[0]["message"], problems=problems)
    return bool(body.get("repair")), options
