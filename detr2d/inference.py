"""From trained weights to the official figures, alone or under torchrun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from detr2d.backbones.folded import FoldedConvolution
from detr2d.checkpoints.convert import load_official
from detr2d.checkpoints.files import load_weights, read_origin
from detr2d.compiled import compile_prediction
from detr2d.config import (
    Experiment,
    OtherSystemError,
    Report,
    describe_difference,
    to_json,
    user_errors,
)
from detr2d.host import set_up_host
from detr2d.stopping import signals_held
from detr2d.structures import Predictions, map_tensors


def join_processes() -> Accelerator:
    """This process's device, and its place among those that torchrun started."""
    return Accelerator(cpu=not torch.accelerator.is_available())  # else CPUs are not joined


def finish(message: str) -> None:
    """Print ``message`` on the main process and part from the others: the end of a tool."""
    accelerator = join_processes()
    accelerator.print(message)
    accelerator.end_training()  # a process group that is still open can abort the exit


def with_precision(
    model: nn.Module, precision: str, device: torch.device
) -> Callable[[Any], Predictions]:
    """The model as a function of a batch: under autocast if asked, float32 predictions always."""

    def predict(batch: Any) -> Predictions:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            predictions = model(batch)
        return map_tensors(predictions, _to_float32)

    return predict


def prepare_inference(
    model: nn.Module, precision: str, device: torch.device, *, compiled: bool = False
) -> Callable[[Any], Predictions]:
    """``with_precision`` of a model that is only to predict: the same function, made fast.

    Changes ``model`` for good: parts that know a form for inference (``folded()``) take it, and
    with bfloat16 the weights that autocast would round in every pass are rounded once. Call the
    returned function, not the model, and without gradients. ``compiled`` makes programs of it, see
    ``detr2d.compiled``.
    """
    model.eval().requires_grad_(False)
    for name, module in list(model.named_modules()):
        if hasattr(module, "folded"):
            model.set_submodule(name, module.folded())
    if precision == "bfloat16":
        round_weights(model)
    predict = with_precision(model, precision, device)
    return compile_prediction(predict, device) if compiled else predict


def round_weights(model: nn.Module) -> None:
    """Keep what autocast rounds to bfloat16 (of linear maps, convolutions, attention) rounded."""
    rounded = (nn.Linear, nn.Conv2d, nn.MultiheadAttention, FoldedConvolution)
    for module in model.modules():
        if isinstance(module, rounded):
            module.to(torch.bfloat16)


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def evaluate(experiment: Experiment, checkpoint: Path, output_dir: Path | None = None) -> Report:
    """Judge exported weights on the evaluation set with the official code.

    The evaluator writes its files to ``output_dir``, by default ``work_dir / "evaluation"``. Every
    process evaluates its share of the samples; all return the report. Raises UserError if the
    weights were trained for another system or other classes, or if data or weights are missing;
    FloatingPointError that names the samples whose predictions are not finite.
    """
    train = experiment.train
    set_up_host(train.threads)
    accelerator = join_processes()
    with user_errors():
        model = load_model(experiment, checkpoint)
        dataset = experiment.data.evaluation_set()
    output_dir = output_dir or experiment.work_dir / "evaluation"
    return judge(experiment, model, dataset, output_dir=output_dir, accelerator=accelerator)


def judge(
    experiment: Experiment,
    model: nn.Module,
    dataset: Dataset,
    *,
    output_dir: Path,
    accelerator: Accelerator,
) -> Report:
    """Judge a model on ``dataset``, the experiment's evaluation set; for all processes to call.

    The model is prepared for inference, which changes it for good.
    """
    train, device = experiment.train, accelerator.device
    with user_errors():
        evaluator = experiment.data.evaluator(output_dir)
    share = range(accelerator.process_index, len(dataset), accelerator.num_processes)  # type: ignore[arg-type]
    loader = DataLoader(
        Subset(dataset, share),
        batch_size=train.batch_size,
        num_workers=train.workers,
        collate_fn=experiment.data.collate,
        pin_memory=device.type == "cuda",
    )
    with user_errors():
        predict = prepare_inference(
            model.to(device), train.precision, device, compiled=train.compiled
        )
    results: dict[str, Any] = {}
    broken: list[str] = []
    main = accelerator.is_main_process
    with signals_held():
        batches = iter(loader)
    words = {"total": len(loader), "unit": "batch", "dynamic_ncols": True, "leave": None}
    for host_batch in tqdm(batches, "evaluate", disable=not main, **words):
        batch = host_batch.to(device, non_blocking=True)
        with torch.inference_mode():
            predictions = predict(batch)
            if lost := samples_not_finite(predictions, batch):
                broken += lost  # raising here would leave other processes waiting
                continue
            detections = experiment.system.postprocess(predictions)
        results |= evaluator.format(batch, [found.to("cpu") for found in detections])
    if broken := gather_object(broken):
        raise FloatingPointError(
            f"images or predictions are not finite: sample {', '.join(broken)}"
        )
    merged = {token: result for part in gather_object([results]) for token, result in part.items()}
    if len(merged) != len(dataset):  # type: ignore[arg-type]
        raise ValueError(f"{len(dataset)} samples gave {len(merged)} results")  # type: ignore[arg-type]
    report = [evaluator.summarize(merged) if main else None]
    return broadcast_object_list(report)[0]


def samples_not_finite(predictions: Predictions, batch: Any) -> list[str]:
    """Tokens of the samples whose images, or predictions of the last layer, hold NaN or infinity.

    Images too, since fused kernels can turn NaN into a number on the way.
    """
    values = [predictions.logits[-1], predictions.codes[-1]]
    images = getattr(batch, "images", None)
    if images is not None and images.is_floating_point():
        values.append(images)
    fine = torch.stack([value.isfinite().flatten(1).all(1) for value in values]).all(0).tolist()
    return [token for token, finite in zip(batch.tokens, fine, strict=True) if not finite]


def load_model(experiment: Experiment, checkpoint: Path) -> nn.Module:
    """The experiment's model with exported weights, in evaluation mode on the CPU.

    A ``.pth`` file is taken for official weights, which say nothing of settings. Raises
    OtherSystemError that lists every setting that differs from the checkpoint's.
    """
    if checkpoint.suffix == ".pth":
        return load_official(experiment, checkpoint).eval()
    origin = read_origin(checkpoint)
    different = describe_difference(
        origin.config.get("system"), to_json(experiment.system), "system"
    ) + describe_difference(
        list(origin.classes), list(experiment.data.class_names()), "class names"
    )
    if different:
        raise OtherSystemError(
            f"{checkpoint} was trained with other settings: " + "; ".join(different)
        )
    model = experiment.system.build(origin.classes)
    load_weights(model, checkpoint)
    return model.eval()
