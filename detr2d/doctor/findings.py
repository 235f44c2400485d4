"""What the doctor says: one finding per kind of fault and place, never one per row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
SHOWN = 3  # examples that a finding names


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing.

    ``severity``: an error stops training or evaluation or makes it wrong, a warning probably does
    harm, a note is only good to know. ``kind`` names the fault in a word that stays the same,
    ``where`` the file or folder; ``message`` says what is wrong, ``advice`` what to do.
    """

    severity: Severity
    kind: str
    where: str
    message: str
    advice: str = ""


def gather(
    severity: Severity,
    kind: str,
    where: Path | str,
    items: Iterable[object],
    message: str,
    advice: str = "",
) -> list[Finding]:
    """One finding that counts ``items`` and shows the first of them; none if there are none."""
    listed = [str(item) for item in items]
    if not listed:
        return []
    shown = ", ".join(text[:120] for text in listed[:SHOWN])
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return [
        Finding(severity, kind, str(where), f"{message} ({len(listed)}): {shown}{more}", advice)
    ]


def attempt(kind: str, where: Path | str, act: Callable[[], Any], said: str = "") -> list[Finding]:
    """The complaint of a step that the tools will take, after the words ``said``; none if it works.

    Catches ValueError and OSError, which is what readers raise.
    """
    try:
        act()
    except (ValueError, OSError) as error:
        return [Finding("error", kind, str(where), f"{said}{error}")]
    return []


def refused(where: Path | str, read: Callable[[], Any]) -> list[Finding]:
    """The own complaint of the reader of a file, if there is one."""
    return attempt("refused", where, read, "the reader refuses it: ")


def has_errors(findings: Iterable[Finding]) -> bool:
    """Whether one of the findings is an error."""
    return any(finding.severity == "error" for finding in findings)


def format_findings(findings: Sequence[Finding]) -> str:
    """The findings as text, the worst first, and a line that counts them."""
    ordered = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    lines = []
    for finding in ordered:
        lines.append(f"{finding.severity:<8} {finding.kind:<24} {finding.where}")
        lines.append(f"         {finding.message}")
        if finding.advice:
            lines.append(f"         → {finding.advice}")
    counts = [sum(f.severity == severity for f in findings) for severity in SEVERITIES]
    words = [
        f"{count} {name}{'' if count == 1 else 's'}"
        for count, name in zip(counts, SEVERITIES, strict=True)
    ]
    return "\n".join([*lines, ", ".join(words)])
