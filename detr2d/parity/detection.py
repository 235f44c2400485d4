"""What all 2D detectors are compared on: weights, outputs, losses, matches and gradients."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detr2d.checkpoints.rename import convert
from detr2d.config import Criterion, SystemConfig
from detr2d.criterion import SetCriterion, cardinality_error, class_error
from detr2d.images import NormalizeImages
from detr2d.matching import Matches
from detr2d.parity.fixtures import Case, Fixture, Section
from detr2d.parity.ledger import Ledger, Line, compare, same, same_pairs
from detr2d.structures import ImageBatch, Predictions, Targets, map_tensors, pad_stack

OUTPUT_TOLERANCE = 1e-4
USUAL_NOISE = {"pred_logits": 6e-4, "pred_boxes": 1e-5}  # of DINO
NOISE_FACTOR = 3  # times the rounding noise that a case records, where that is larger
LOSS_TOLERANCE = 1e-4  # relative
DOUBLE_TOLERANCE = 1e-6
PROBE_SIZE = 256
RECIPE = "epochs|lr(_.+)?|weight_decay|clip_max_norm|sgd|start_epoch|seed|batch_size|num_workers"
RECIPE += "|dataset_file|coco_.*|cache_mode|remove_difficult|device|eval|frozen_weights|resume"
RECIPE += "|output_dir|(mask|dice)_loss_coef|position_embedding_scale"
ROUNDING = {"float16": 2**-11, "float32": 2**-24}  # relative, of what a case stores so


@dataclass(frozen=True)
class Subject:
    """Our counterpart of one variant: its system, model and the meaning of official names."""

    fixture: Fixture
    system: SystemConfig
    model: nn.Module
    criterion: Criterion
    """What trains the whole system."""
    set_loss: SetCriterion
    """The part of it that matches and trains the decoder's layers."""
    loss_names: Mapping[str, str]
    """Our name of a loss by the official one, such as loss_ce: class."""
    num_layers: int
    """Decoder layers."""
    target_classes: int
    """Labels of the cases' targets lie below it."""
    settings: Mapping[str, Any]
    """Our values of official settings, by key of config.json."""
    used: str
    """Pattern of the official settings that the system is built from."""
    last_only: tuple[str, ...] = ()
    """Our names of losses that only the last layer has."""
    with_masks: bool = False
    more_weights: Mapping[str, float] = field(default_factory=dict)
    """Official loss weights beyond those of the decoder's layers, from our settings."""


@dataclass(frozen=True)
class Run:
    """One run of a case: inputs, predictions, losses, gradients, module outputs."""

    batch: Any
    predictions: Predictions
    losses: dict[str, Tensor]
    gradients: dict[str, float]
    """Norm by parameter."""
    captured: dict[str, Any]
    """Outputs by module."""


def load_weights(system: SystemConfig, fixture: Fixture) -> nn.Module:
    """Our model with the fixture's weights, converted as a user's checkpoint would be.

    Its input is normalised already. Raises MisfitError if keys or shapes do not fit.
    """
    model = system.build(class_names(fixture))
    model.load_state_dict(convert(fixture.weights(), system.official_table(), model.state_dict()))
    model.normalize = NormalizeImages((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return model.eval()


def class_names(fixture: Fixture) -> tuple[str, ...]:
    """Stand-in names for the official number of classes."""
    return tuple(str(index) for index in range(fixture.config["num_classes"]))


def make_batch(subject: Subject, case: Case) -> ImageBatch:
    """The case's images and targets, made from its seeds."""
    fill, facts = subject.fixture.fill, case.facts["case"]
    sizes = facts["sizes"]
    images = fill["make_images"](sizes, facts["image_seed"])
    found = fill["make_targets"](
        facts["num_boxes"],
        subject.target_classes,
        facts["target_seed"],
        mask_sizes=sizes if subject.with_masks else None,
        label_low=1,
    )
    return ImageBatch(
        images=pad_stack(images),
        image_sizes=torch.tensor(sizes, dtype=torch.float32),
        tokens=tuple(str(index) for index in range(len(images))),
        original_sizes=torch.tensor(facts["target_sizes"], dtype=torch.float32),
        targets=tuple(Targets(t["labels"], t["boxes"], t.get("masks")) for t in found),
    )


def run_case(subject: Subject, batch: ImageBatch) -> Run:
    """Forward, losses and backward, keeping the outputs of all modules but the backbone's parts."""
    names = {name for name, _ in subject.model.named_modules()}
    keep = {name for name in names if "backbone." not in name}  # of Swin-L they fill the memory
    return run_model(subject.model, subject.criterion, batch, keep)


def run_model(
    model: nn.Module, criterion: Criterion, batch: Any, keep: Container[str] | None = None
) -> Run:
    """Forward, losses and backward, keeping the outputs of the modules in ``keep``, or of all.

    Without gradients where torch is told not to make any.
    """
    captured: dict[str, Any] = {}
    model.zero_grad(set_to_none=True)
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if keep is None or name in keep:
                hooks.enter_context(_capture(module, name, captured))
        predictions = model(batch)
    losses = criterion(predictions, targets_of(batch))
    if torch.is_grad_enabled():
        torch.stack(list(losses.values())).sum().backward()
    gradients = {
        name: float(p.grad.double().norm())
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    losses = {name: loss.detach() for name, loss in losses.items()}
    return Run(batch, map_tensors(predictions, Tensor.detach), losses, gradients, captured)


def run_double(subject: Subject, batch: ImageBatch) -> Run:
    """The same in float64; position embeddings stay float32, as in the official code."""
    subject.model.double()
    run = run_case(subject, replace(batch, images=batch.images.double()))
    subject.model.float()
    return run


def _capture(module: nn.Module, name: str, captured: dict[str, Any]) -> Any:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        captured[name] = map_tensors(output, Tensor.detach)

    return module.register_forward_hook(keep)


def targets_of(batch: Any) -> tuple[Targets, ...]:
    """The batch's targets. Raises ValueError if there are none."""
    if batch.targets is None:
        raise ValueError("a parity case needs targets")
    return batch.targets


def check_settings(subject: Subject) -> Section:
    """Lines on key list, parameter counts, weights by name, and the settings of the loss."""
    fixture = subject.fixture
    config = dict(fixture.config)
    args = {f"args/{name}": value for name, value in config.pop("args", {}).items()}
    ledger = Ledger({**config, **args})
    parameters = list(subject.model.parameters())
    fingerprint = fixture.fill["fingerprint"](fixture.weights())
    ledger.close("fill_fingerprint", fingerprint, rtol=1e-12)
    counts = {
        "num_keys": len(fixture.manifest),
        "num_alias_keys": sum("alias_of" in info for info in fixture.manifest.values()),
        "num_params": sum(p.numel() for p in parameters),
        "num_params_trainable": sum(p.numel() for p in parameters if p.requires_grad),
    }
    for key, value in {**counts, "weight_dict": loss_weights(subject), **subject.settings}.items():
        ledger.equal(key, value)
    ledger.skip("variant|official|torch|torchvision", "where the numbers come from")
    ledger.skip(f"num_classes|salt|{subject.used}", "what our system and weights are made from")
    ledger.skip(f"args/({RECIPE})", "how it was trained: nothing to compute")
    return Section("settings", ledger.finish())


def loss_weights(subject: Subject) -> dict[str, float]:
    """Our loss weights under official names; the official code lists them for every layer."""
    suffixes = ["", *(f"_{layer}" for layer in range(subject.num_layers - 1))]
    return {
        official + suffix: subject.set_loss.loss[ours]
        for suffix in suffixes
        for official, ours in subject.loss_names.items()
    } | dict(subject.more_weights)


def check_inputs(ledger: Ledger, batch: ImageBatch) -> None:
    """Lines on images, padding and targets made from seeds."""
    ledger.equal("in/sizes", batch.image_sizes.long())
    ledger.equal("in/pad_mask", batch.padding)
    sizes = batch.image_sizes.long().tolist()
    images = [image[:, :h, :w] for image, (h, w) in zip(batch.images, sizes, strict=True)]
    ledger.equal("in/image_probe", torch.stack([probe_values(image) for image in images]))
    for index, target in enumerate(targets_of(batch)):
        ledger.equal(f"in/target{index}/labels", target.labels)
        ledger.equal(f"in/target{index}/boxes", target.boxes)


def probe_values(tensor: Tensor) -> Tensor:
    """The 256 evenly spaced values that a case keeps of a large tensor."""
    flat = tensor.reshape(-1)
    index = np.linspace(0, flat.numel() - 1, PROBE_SIZE).astype(np.int64)
    return flat[torch.from_numpy(index)]


def check_probes(ledger: Ledger, names: Iterable[str], find: Callable[[str], Tensor]) -> None:
    """Lines on module outputs: shape, 256 values, mean and standard deviation.

    ``find`` gives ours by each of the official ``names``, in the official layout. Differences are
    allowed relative to the largest value.
    """
    for name in names:
        ledger.judge(f"probe/{name}", partial(_probe_line, ledger, name, find))
        ledger.judge(f"probe_shape/{name}", partial(_shape_line, ledger, name, find))
        ledger.judge(f"probe_stat/{name}", partial(_stat_line, ledger, name, find))


def _probe_line(ledger: Ledger, name: str, find: Callable[[str], Tensor]) -> Line:
    key, ours = f"probe/{name}", find(name)
    official = ledger.take(key)
    scale = max(1.0, float(np.abs(official).max()))
    return compare(key, probe_values(ours), official, atol=OUTPUT_TOLERANCE * scale)


def _shape_line(ledger: Ledger, name: str, find: Callable[[str], Tensor]) -> Line:
    key = f"probe_shape/{name}"
    return same(key, np.array(find(name).shape), ledger.take(key))


def _stat_line(ledger: Ledger, name: str, find: Callable[[str], Tensor]) -> Line:
    key, ours = f"probe_stat/{name}", find(name).double()
    statistics = torch.stack([ours.mean(), ours.std()])
    return compare(key, statistics, ledger.take(key), atol=OUTPUT_TOLERANCE, rtol=OUTPUT_TOLERANCE)


def tolerance(case: Case, quantity: str) -> float:
    """Allowed difference of an output: 1e-4, or three times the noise that the case records."""
    return max(OUTPUT_TOLERANCE, NOISE_FACTOR * noise_of(case, quantity))


def noise_of(case: Case, quantity: str) -> float:
    """Rounding noise of an official float32 output.

    Where the float64 run chose queries in another order, the case records that instead of noise;
    then it is what the same model has in other cases.
    """
    recorded = case.facts.get("fp64_max_abs_diff", {})
    if recorded.get("two_stage_topk_order_differs_at", 0):
        return USUAL_NOISE[quantity]
    return recorded.get(quantity, 0.0)


def check_outputs(ledger: Ledger, case: Case, predictions: Predictions) -> None:
    """Lines on logits and boxes of all layers, and on the masks of the last."""
    last = len(predictions.logits) - 1
    for layer, (logits, codes) in enumerate(
        zip(predictions.logits, predictions.codes, strict=True)
    ):
        place = "out" if layer == last else f"out/aux{layer}"
        for name, ours in (("pred_logits", logits), ("pred_boxes", codes)):
            check_output(ledger, case, f"{place}/{name}", ours)
    if predictions.masks is not None:
        check_output(ledger, case, "out/pred_masks", predictions.masks.logits)


def check_output(ledger: Ledger, case: Case, key: str, ours: Tensor) -> None:
    """Line on one output; what the case stores in float16 may differ by that rounding."""
    name = key.rsplit("/", 1)[-1]
    ledger.close(key, ours, atol=tolerance(case, name), rtol=rounding(ledger, key))


def rounding(ledger: Ledger, key: str) -> float:
    """Relative rounding of an official array, from the type it is stored in."""
    return ROUNDING.get(str(getattr(ledger.official.get(key), "dtype", "")), 0.0)


def check_losses(ledger: Ledger, subject: Subject, run: Run) -> None:
    """Lines on every loss without its weight, on the logs that are not trained, and the total."""
    targets, criterion = targets_of(run.batch), subject.set_loss
    num_layers = len(run.predictions.logits)
    cardinality = cardinality_error(run.predictions, targets)
    for layer in range(num_layers):
        last = layer == num_layers - 1
        prefix, suffix = ("", "") if last else (f"layer{layer}/", f"_{layer}")
        for official, ours in subject.loss_names.items():
            if last or ours not in subject.last_only:
                value = run.losses[prefix + ours] / criterion.loss[ours]
                ledger.close(f"losses/{official}{suffix}", value, atol=1e-7, rtol=LOSS_TOLERANCE)
        ledger.close(f"losses/cardinality_error{suffix}", cardinality[layer], atol=1e-6)
    matches = criterion.match(run.predictions, targets)
    ledger.close(
        "losses/class_error", class_error(run.predictions, targets, matches), rtol=LOSS_TOLERANCE
    )
    total = torch.stack(list(run.losses.values())).sum()
    ledger.close("weighted_total", total, rtol=LOSS_TOLERANCE)


def check_matches(ledger: Ledger, subject: Subject, run: Run) -> None:
    """Lines on the matched pairs of every layer."""
    matches = subject.set_loss.match(run.predictions, targets_of(run.batch))
    ours = matched_pairs(matches)
    last = len(run.predictions.logits) - 1

    def line(key: str, layers: range) -> Line:
        found = ledger.take(key)
        official = [found] if key == "hungarian_last" else found
        wanted = [
            pair
            for layer, one in zip(layers, official, strict=True)
            for pair in official_pairs(one, layer)
        ]
        return same_pairs(key, [pair for pair in ours if pair[0] in layers], wanted)

    ledger.judge("hungarian_last", lambda: line("hungarian_last", range(last, last + 1)))
    ledger.judge("hungarian_aux", lambda: line("hungarian_aux", range(last)))


def matched_pairs(matches: Matches) -> list[tuple[int, ...]]:
    """Our pairs as (layer, image, query, object)."""
    columns = (matches.layers, matches.images, matches.queries, matches.objects)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def official_pairs(found: list[Any], layer: int) -> list[tuple[int, ...]]:
    """The same of what a case lists for one layer: queries and objects of each image."""
    return [
        (layer, image, query, target)
        for image, (queries, objects) in enumerate(found)
        for query, target in zip(queries, objects, strict=True)
    ]


def check_double(ledger: Ledger, case: Case, double: Run) -> None:
    """Lines on a float64 run, and on the rounding noise that the case says it has."""
    predictions = double.predictions
    ours = {"pred_logits": predictions.logits[-1], "pred_boxes": predictions.codes[-1]}
    if predictions.masks is not None:
        ours["pred_masks"] = predictions.masks.logits
    for name in ("pred_logits", "pred_boxes"):
        key = f"out64/{name}"
        ledger.close(key, ours[name], atol=DOUBLE_TOLERANCE, rtol=rounding(ledger, key))
    ledger.judge("fp64_max_abs_diff", partial(_noise_line, ledger, case, ours))


def _noise_line(ledger: Ledger, case: Case, ours: Mapping[str, Tensor]) -> Line:
    recorded, measured = ledger.take("fp64_max_abs_diff"), {}
    for name in ours:
        official = case.arrays[f"out/{name}"]
        if official.dtype != np.float16:  # which rounds far more than what is recorded
            measured[name] = float(np.abs(ours[name].numpy() - official).max())
    return compare(
        "fp64_max_abs_diff",
        list(measured.values()),
        [recorded[name] for name in measured],
        atol=DOUBLE_TOLERANCE,
        note=f"official float32 against our float64: {', '.join(measured)}",
    )
