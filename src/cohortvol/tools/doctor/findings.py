"""What a check finds, and how findings are told."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from cohortvol.errors import FINISHED_WITH_PROBLEMS, OK, CohortvolError, fingerprint

NAME_WIDTH = 18
INDENT = " " * (6 + NAME_WIDTH)


class Verdict(StrEnum):
    """How a check ended."""

    PASS = "PASS"  # noqa: S105
    WARN = "WARN"
    FAIL = "FAIL"
    SKIP = "SKIP"


@dataclass(frozen=True)
class Finding:
    """Verdict of one check; unless it is PASS, `what_to_do` says what to do."""

    verdict: Verdict
    says: str
    what_to_do: str = ""


Check = Callable[[], Finding]


def passed(says: str) -> Finding:
    """Nothing to do."""
    return Finding(Verdict.PASS, says)


def warned(says: str, what_to_do: str) -> Finding:
    """A cohort runs, but not as well as it could, or not in every case."""
    return Finding(Verdict.WARN, says, what_to_do)


def failed(says: str, what_to_do: str) -> Finding:
    """A cohort would not run, or not end well."""
    return Finding(Verdict.FAIL, says, what_to_do)


def skipped(says: str, what_to_do: str) -> Finding:
    """Not looked at; `what_to_do` says how it would be."""
    return Finding(Verdict.SKIP, says, what_to_do)


def examine(
    checks: Mapping[str, Check], told: Callable[[str, Finding], None] | None = None
) -> dict[str, Finding]:
    """Run every check, whatever becomes of the others.

    Parameters
    ----------
    checks : mapping of str to callable
        Name of a check to the check.
    told : callable, optional
        Told of every finding as it is made.
    """
    found = {}
    for name, check in checks.items():
        try:
            found[name] = check()
        except CohortvolError as error:
            first, _, rest = str(error).partition("\n")
            found[name] = failed(first, " ".join(rest.split()) or "Do what the message says.")
        except Exception as error:
            found[name] = failed(
                f"the check itself broke: {fingerprint(error)}",
                "Report it with the output of `cohortvol -v doctor`.",
            )
        if told is not None:
            told(name, found[name])
    return found


def exit_code(found: Iterable[Finding]) -> int:
    """0, or 3 where something failed."""
    failures = any(finding.verdict is Verdict.FAIL for finding in found)
    return FINISHED_WITH_PROBLEMS if failures else OK


def tell(node: str, found: Mapping[str, Finding]) -> dict[str, Any]:
    """All findings as a value for JSON: ``node``, ``counts``, ``checks``, ``exit_code``."""
    counts = Counter(finding.verdict for finding in found.values())
    return {
        "node": node,
        "counts": {verdict.value: counts[verdict] for verdict in Verdict},
        "checks": [{"check": name, **asdict(finding)} for name, finding in found.items()],
        "exit_code": exit_code(found.values()),
    }


def render(name: str, finding: Finding, width: int = 100) -> str:
    """A finding as text: what it says, and on lines of its own what to do."""
    lines = _wrapped(finding.says, f"{finding.verdict:<6}{name:<{NAME_WIDTH}}", width)
    if finding.what_to_do:
        lines += _wrapped(finding.what_to_do, f"{INDENT}→ ", width)
    return "\n".join(lines)


def _wrapped(text: str, start: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
