"""Say what is wrong with a config, data set, checkpoint or result file: where, how bad, what to do.

python tools/doctor.py configs/toy/detr3d.py                       # its data, splits and system
python tools/doctor.py configs/toy/detr3d.py --plan                # and memory and time of a step
python tools/doctor.py data/nuscenes --overlay outputs/overlay     # tables, files, pictures
python tools/doctor.py data/coco
python tools/doctor.py detr-r50-e632da11.pth
python tools/doctor.py results_nusc.json --root data/nuscenes --version v1.0-mini
python tools/doctor.py results_bbox.json --annotations annotations/instances_val2017.json

Exit code 1 if there is an error, 2 if there is nothing to look at.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from det3d.doctor.configs import examine_experiment
from det3d.doctor.overlay import draw_overlay
from det3d.doctor.targets import Surroundings, examine
from detr2d.config import one_line_errors, parse_command, user_errors
from detr2d.doctor.findings import Finding, format_findings, has_errors
from detr2d.doctor.plan import plan_training

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*/*.py"))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to look at."""

    target: tyro.conf.Positional[Path]
    """Config, data set, checkpoint, training state, or result, info or annotation file."""
    around: Annotated[Surroundings, tyro.conf.arg(name="")] = field(default_factory=Surroundings)
    """What belongs to the target."""
    overlay: Path | None = None
    """Folder to draw samples of a nuScenes-format database to: boxes and lidar on images."""
    json: Path | None = None
    """File to write the findings to as well."""


@dataclass(frozen=True, kw_only=True)
class ConfigOptions:
    """What else to do with a config."""

    plan: bool = False
    """Also measure a training step on this device and say which batch fits."""
    json: Path | None = None
    """File to write the findings to as well."""


def look_at_config(arguments: list[str]) -> tuple[list[Finding], Path | None]:
    """Findings of a config, and where to write them."""
    experiment, options = parse_command(arguments, ConfigOptions(), __doc__ or "")
    findings = examine_experiment(experiment, arguments[0])
    if options.plan and has_errors(findings):
        said = "--plan measured nothing: the errors come first"
        findings.append(Finding("note", "plan", arguments[0], said))
    elif options.plan:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        findings += plan_training(experiment, device)
    return findings, options.json


def look_at_target(arguments: list[str]) -> tuple[list[Finding], Path | None]:
    """Findings of anything else, and where to write them."""
    options = tyro.cli(Options, description=(__doc__ or "").split("\n\n")[0], args=arguments)
    findings = examine(options.target, options.around, CONFIGS)
    if options.overlay is not None:
        findings += draw_overlay(options.target, options.around, options.overlay)
    return findings, options.json


def main() -> None:
    arguments = sys.argv[1:]
    is_config = bool(arguments) and arguments[0].endswith(".py")
    with one_line_errors(), user_errors():
        findings, output = (look_at_config if is_config else look_at_target)(arguments)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps([asdict(finding) for finding in findings], indent=1))
    print(format_findings(findings))
    sys.exit(int(has_errors(findings)))


if __name__ == "__main__":
    main()
