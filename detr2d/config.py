"""One experiment is one frozen, typed value: what is built, on what data, trained how.

A config file is Python that binds ``experiment`` to an ``Experiment``; there is no registry and no
string that names a class. ``parse_experiment`` reads such a file and applies the command line to
it; the resolved value is saved as JSON beside every checkpoint, to be read and compared, never
executed.
"""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

import tyro
from torch import Tensor, nn
from torch.utils.data import Dataset

from detr2d.checkpoints.rename import Table
from detr2d.structures import Batch, Detections, Predictions


class Criterion(Protocol):
    """Matches predictions to targets and returns the weighted losses by name.

    One whose terms are divided by counts also has ``divisors(predictions, batch)``: the ``Divisor``
    (``detr2d.accumulation``) of each term by name, so that micro-batches add up to a large batch.
    """

    def __call__(self, predictions: Predictions, targets: Any) -> dict[str, Tensor]:
        """Weighted scalar losses; their sum is trained."""


@dataclass(frozen=True)
class Report:
    """What an evaluation says: headline ``metrics`` by name, and ``table`` for people to read."""

    metrics: dict[str, float]
    table: str


class Evaluator(Protocol):
    """Judges detections of an evaluation set with the official code."""

    def format(self, batch: Any, detections: list[Detections]) -> dict[str, Any]:
        """Picklable results of one batch by sample token, in the official result format.

        Pure: the engine calls it on every process and merges the dictionaries by token.
        """

    def summarize(self, results: dict[str, Any]) -> Report:
        """Write the result files and run the official evaluation on exactly these samples."""


@dataclass(frozen=True, kw_only=True)
class SystemConfig:
    """A published system: its settings and the one place that turns them into modules."""

    def build(self, classes: tuple[str, ...]) -> nn.Module:
        """Build the model: ``model(batch) -> Predictions``."""
        raise NotImplementedError

    def build_criterion(self, classes: tuple[str, ...]) -> Criterion:
        """Build the set criterion that trains it."""
        raise NotImplementedError

    def official_table(self) -> Table:
        """How official checkpoints of this system name their weights.

        Raises ValueError if none are known.
        """
        raise ValueError(f"no official checkpoints are known for {type(self).__name__}")

    def statistics(self, predictions: Predictions, targets: Any) -> dict[str, Tensor]:
        """Scalars to log beside the losses, which are not trained; none by default."""
        return {}

    def postprocess(self, predictions: Predictions) -> list[Detections]:
        """Turn predictions into final detections, one entry per image or scene."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data is and how it is prepared."""

    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes in label order."""
        raise NotImplementedError

    def training_set(self, seed: int) -> Dataset:
        """Samples for training; ``set_epoch(epoch)`` is called before an epoch if there is one.

        Augmentation must be a function of (seed, epoch, index), never of a worker's state.
        """
        raise NotImplementedError

    def evaluation_set(self) -> Dataset:
        """Samples for evaluation, each once."""
        raise NotImplementedError

    def collate(self, samples: list[Any]) -> Batch:
        """Join samples to one batch."""
        raise NotImplementedError

    def evaluator(self, output_dir: Path) -> Evaluator:
        """A fresh evaluator that writes its files to ``output_dir``."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation, precision, logging and checkpoints."""

    epochs: int = 24
    """Passes over the training set."""
    batch_size: int = 1
    """Samples per process and micro-batch."""
    accumulate: int = 1
    """Micro-batches per optimizer step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon for matrices and convolutions with AdamW for the rest (from scratch)."""
    lr: float = 2e-4
    """Peak learning rate of everything but the backbone."""
    backbone_lr_factor: float = 0.1
    """The backbone's learning rate is lr times this."""
    slow_parameters: tuple[str, ...] = ()
    """Parameters whose name contains one of these learn as slowly as the backbone."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay; norms, biases and embeddings are left out."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup_steps: int = 500
    """Optimizer steps of linear warm-up."""
    step_epochs: tuple[int, ...] = ()
    """Epochs at which the step schedule divides the rate by ten."""
    clip_norm: float = 35.0
    """Largest gradient norm; 0 switches clipping off."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the model under autocast; geometry, matching and losses stay float32."""
    compiled: bool = False
    """Predict by compiled programs, one for each of a few canvases (see detr2d/compiled.py)."""
    sharding: Literal["none", "full"] = "none"
    """full: every process holds a piece of weights, gradients and optimizer state (FSDP2)."""
    ema_decay: float = 0.0
    """Decay of the averaged weights that are evaluated; 0 switches them off."""
    workers: int = 2
    """Data loading processes per training process."""
    start_from: Path | None = None
    """Exported weights to start from; made for other classes, their class head starts anew."""
    only: tuple[str, ...] = ()
    """Parts of the model to train, such as mask_head; the others stay as they are. All if empty."""
    seed: int = 0
    """Seed of initialisation, order and augmentation."""
    log_every: int = 20
    """Optimizer steps between log lines."""
    evaluate_every: int = 0
    """Epochs between evaluations, whose figures go to the log; 0 leaves them out."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    checkpoint_steps: int = 0
    """Optimizer steps between further checkpoints within an epoch; 0 for none."""
    keep_checkpoints: int = 2
    """How many training states to keep."""
    skip_nonfinite: int = 0
    """Steps whose loss or gradient is not finite that are skipped and counted before one stops the
    run; each leaves a file for --replay."""
    threads: int = 0
    """CPU threads of torch per process; 0 leaves torch's own choice."""

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "accumulate", "log_every")
        for name in (*counts, "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} must be at least 1, got {getattr(self, name)}")
        optional = ("checkpoint_steps", "skip_nonfinite", "workers", "threads", "evaluate_every")
        for name in ("warmup_steps", "clip_norm", "weight_decay", *optional):
            if getattr(self, name) < 0:
                raise ValueError(f"train.{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"train.ema_decay must lie in [0, 1), got {self.ema_decay}")
        if self.step_epochs and self.schedule != "step":
            raise ValueError(f"train.step_epochs needs train.schedule step, got {self.schedule}")
        if self.schedule == "step" and not self.step_epochs:
            raise ValueError("train.schedule step needs train.step_epochs, such as 16 22")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a run depends on."""

    system: SystemConfig
    data: DataConfig
    train: TrainConfig = TrainConfig()
    work_dir: Path = Path("outputs/run")
    """Where logs, checkpoints, results and the data index go."""


class UserError(Exception):
    """A mistake that its message explains completely: tools show it as one line."""


class OtherSystemError(UserError):
    """Weights were made with other settings of the system, or for other classes."""


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors that reading configs, data and checkpoints can raise into ``UserError``."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Around a tool's main: a ``UserError`` becomes one line on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def load_experiment(path: Path) -> Experiment:
    """Execute the Python file ``path`` and return what it binds to ``experiment``.

    Raises UserError if the file is missing, fails, or binds no complete ``Experiment``.
    """
    if not path.is_file():
        raise UserError(f"config {path} does not exist: expected a Python file")
    try:
        found = runpy.run_path(str(path))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename}, line {getattr(error, 'lineno', None) or frame.lineno}"
        raise UserError(
            f"config {path} fails: {type(error).__name__}: {error} ({place})"
        ) from error
    experiment = found.get("experiment")
    if not isinstance(experiment, Experiment):
        came = f"experiment = {experiment!r}" if "experiment" in found else "no such name"
        raise UserError(f"config {path} must bind experiment = Experiment(...), found {came}")
    for name, kind in (("system", SystemConfig), ("data", DataConfig), ("train", TrainConfig)):
        if not isinstance(getattr(experiment, name), kind):
            came = type(getattr(experiment, name)).__name__
            raise UserError(f"config {path}: {name} must be a {kind.__name__}, got {came}")
    return experiment


T = TypeVar("T")


@dataclass(frozen=True)
class NoOptions:
    """A tool without options of its own."""


def parse_experiment(argv: Sequence[str], description: str = "") -> Experiment:
    """Experiment of a command line ``CONFIG [--train.lr 1e-4 ...]`` (without the program name)."""
    return parse_command(argv, NoOptions(), description)[0]


def parse_command(argv: Sequence[str], options: T, description: str = "") -> tuple[Experiment, T]:
    """Experiment and a tool's own options from ``CONFIG [settings and options]``.

    ``options`` is a dataclass of defaults (``tyro.MISSING`` where a value is required); its fields
    stand beside the experiment's. ``--help`` prints every setting with the value of the config.
    Raises UserError with one line that names the wrong setting and what was expected.
    """
    program = Path(sys.argv[0]).name
    if not argv or argv[0].startswith("-"):
        if argv and argv[0] in ("-h", "--help"):
            print(f"usage: {program} CONFIG [OPTIONS]; {program} CONFIG --help shows the settings")
            print(f"\n{description}")
            sys.exit(0)
        came = f"got {argv[0]} first" if argv else "got nothing"
        raise UserError(f"expected {program} CONFIG [OPTIONS], {came}")
    experiment = load_experiment(Path(argv[0]))
    kinds = (_unprefixed(Experiment), _unprefixed(type(options)))
    both: Any = tuple.__class_getitem__(kinds)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.filterwarnings("error", "The field .* is annotated with type")
            return tyro.cli(
                both,
                prog=f"{program} {argv[0]}",
                description=description.split("\n\n")[0],
                default=(experiment, options),
                args=list(argv[1:]),
                config=(tyro.conf.AvoidSubcommands,),
            )
    except UserWarning as error:
        raise UserError(f"config {argv[0]}: {str(error).split('. We')[0]}") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_first_sentence(said.getvalue())) from None


def _unprefixed(kind: Any) -> Any:
    """``kind`` with fields that stand on the command line under their own names."""
    return Annotated[kind, tyro.conf.arg(name="")]


def _first_sentence(box: str) -> str:
    """What a framed error message of tyro says, and what it expected instead, on one line."""
    parts: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:  # after the title; rules and frames are ASCII or not
        line = line.strip(" │╭╮╰╯")
        if line and not line.strip("─-"):
            parts.append([])
        elif line:
            parts[-1].append(line)
    message, *others = [part for part in parts if part] or [box.split()]
    sentence = re.sub(r"^Error parsing \d+\S*: ", "", " ".join(message))
    for heading, *rest in others:
        keys = sorted((line for line in rest if line.startswith("--")), key=len)
        if keys and heading in ("Perhaps you meant:", "Argument helptext:"):
            link = "perhaps you meant" if heading.startswith("Perhaps") else "expected"
            return f"{sentence.rstrip('.')}; {link} {' or '.join(keys)}"
    return sentence


def to_json(value: Any) -> Any:
    """``value`` as plain JSON types; a dataclass becomes an object that starts with its class."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return {"class": kind, **{f.name: to_json(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def describe_difference(saved: Any, now: Any, name: str = "") -> list[str]:
    """Settings that differ between two results of ``to_json``, one "key: saved x, now y" each."""
    if isinstance(saved, dict) and isinstance(now, dict):
        return [
            line
            for key in dict.fromkeys([*saved, *now])
            for line in describe_difference(
                saved.get(key, "not set"), now.get(key, "not set"), f"{name}.{key}".lstrip(".")
            )
        ]
    return [] if saved == now else [f"{name}: saved {saved}, now {now}"]
