"""What tests ask of the doctor's findings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from detr2d.doctor.findings import Finding


def alarms(findings: Iterable[Finding]) -> set[str]:
    """The kinds of errors and warnings."""
    return {finding.kind for finding in findings if finding.severity != "note"}


def kinds(findings: Iterable[Finding]) -> set[str]:
    """All kinds, notes too."""
    return {finding.kind for finding in findings}


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the content of a JSON file in place, or put what ``change`` returns there."""
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))
