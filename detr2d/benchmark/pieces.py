"""Benchmark cases of single pieces of 2D detection: operators, COCO evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detr2d.attention import DenseAttention, Memory
from detr2d.backbones.deformable_conv import deform
from detr2d.benchmark.detection import without_gradients
from detr2d.benchmark.measure import Case, Contender, Duel, Setup
from detr2d.benchmark.plain import with_plain_operators
from detr2d.data.coco_files import read_coco
from detr2d.evaluation.coco import ground_truth, official_figures, write_json
from detr2d.ops.sampling import multi_scale_deformable_attention
from detr2d.ops.sampling_torch import sample_and_sum

KEYS = (4224, 6000, 12000, 16896)
QUERIES, CHANNELS = 900, 256
LEVELS = ((60, 80), (30, 40), (15, 20), (8, 10))  # of 480 x 640
HEADS, POINTS = 8, 4


def sampling_duels(setup: Setup) -> Iterator[Duel]:
    """Multi-scale deformable attention of an encoder and a decoder layer, against grid_sample."""
    tokens = sum(height * width for height, width in LEVELS)
    for title, queries in (("encoder", tokens), ("decoder", 300)):
        torch.manual_seed(0)
        shape = (1, queries, HEADS, len(LEVELS), POINTS)
        inputs = (
            torch.randn(1, tokens, HEADS, CHANNELS // HEADS, device=setup.device),
            torch.rand(*shape, 2, device=setup.device),
            torch.rand(*shape, device=setup.device).flatten(3).softmax(-1).view(shape),
        )

        def forward(sample: Any, inputs: Any = inputs) -> Callable[[], Tensor]:
            value, locations, weights = inputs
            return without_gradients(lambda: sample(value, LEVELS, locations, weights))

        def step(sample: Any, inputs: Any = inputs) -> Callable[[], tuple[Tensor, ...]]:
            def run() -> tuple[Tensor, ...]:
                leaves = value, locations, weights = [t.detach().requires_grad_() for t in inputs]
                found = sample(value, LEVELS, locations, weights)
                return found.detach(), *torch.autograd.grad(found.square().sum(), leaves)

            return run

        for way, program, outputs in (
            ("forward", forward, _output),
            ("forward + backward", step, _sampled),
        ):
            yield Duel(
                f"{title}, {queries} queries, {tokens} tokens, {way}",
                ours=(Contender("ours", program(multi_scale_deformable_attention), outputs),),
                peers=(Contender("grid_sample", program(sample_and_sum), outputs),),
            )


def _sampled(tensors: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
    return dict(zip(("sums", "d value", "d locations", "d weights"), tensors, strict=True))


def attention_duels(setup: Setup) -> Iterator[Duel]:
    """900 queries look at all tokens of six images: ours against attention that keeps weights."""
    for keys in KEYS:
        torch.manual_seed(0)
        ours = DenseAttention(channels=CHANNELS, heads=8, dropout=0.0).eval().to(setup.device)
        query, query_pos = torch.randn(2, 1, QUERIES, CHANNELS, device=setup.device)
        tokens, positions = torch.randn(2, 1, keys, CHANNELS, device=setup.device)
        padding = torch.zeros(1, keys, dtype=torch.bool, device=setup.device)
        memory = Memory(tokens, positions, padding)
        theirs: nn.MultiheadAttention = ours.attention

        def look(attention: Any = ours, inputs: Any = (query, query_pos, None, memory)) -> Tensor:
            return attention(*inputs)[0]

        def weigh(
            attention: Any = theirs,
            inputs: Any = (query + query_pos, tokens + positions, tokens),
            padding: Tensor = padding,
        ) -> Tensor:
            return attention(*inputs, key_padding_mask=padding, need_weights=True)[0]

        yield Duel(
            f"{QUERIES} x {keys}",
            ours=(
                Contender("float32", without_gradients(look), _output, 1e-3),
                Contender(
                    "bfloat16", without_gradients(_rounded(look, setup.device)), _output, 0.1
                ),
            ),
            peers=(
                Contender("nn.MultiheadAttention with weights", without_gradients(weigh), _output),
            ),
        )


def _output(tensor: Tensor) -> Mapping[str, Tensor]:
    return {"update": tensor.float()}


def _rounded(run: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """``run`` under bfloat16 autocast."""

    def program() -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return run()

    return program


def deformed_duels(setup: Setup) -> Iterator[Duel]:
    """A deformable 3 x 3 convolution of one image: ours against torchvision's kernel."""
    for channels, height, width in ((256, 58, 100), (512, 16, 44)):
        torch.manual_seed(0)
        features = torch.randn(1, channels, height, width, device=setup.device)
        features = features.contiguous(memory_format=torch.channels_last)
        moves = torch.randn(1, 27, height, width, device=setup.device)
        kernel = torch.randn(channels, channels, 3, 3, device=setup.device) / (9 * channels) ** 0.5
        inputs = (features, moves, kernel)

        def forward(kind: torch.dtype, inputs: Any = inputs) -> Callable[[], Tensor]:
            features, moves, kernel = inputs
            rounded = features.to(kind)
            return without_gradients(lambda: deform(rounded, moves, kernel, 1))

        def step(inputs: Any = inputs) -> tuple[Tensor, ...]:
            leaves = features, moves, kernel = [t.detach().requires_grad_() for t in inputs]
            found = deform(features, moves, kernel, 1)
            return found.detach(), *torch.autograd.grad(found.sum(), leaves)

        setting, exact = f"{channels} x {height} x {width}", forward(torch.float32)
        yield Duel(
            f"{setting}, forward",
            ours=(
                Contender("float32", exact, _output),
                Contender("bfloat16", forward(torch.bfloat16), _output, 0.1),
            ),
            peers=(Contender("torchvision float32", with_plain_operators(exact), _output),),
        )
        yield Duel(
            f"{setting}, forward + backward",
            ours=(Contender("float32", step, _outputs),),
            peers=(Contender("torchvision float32", with_plain_operators(step), _outputs),),
        )


def _outputs(tensors: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
    return dict(zip(("maps", "d features", "d moves", "d kernel"), tensors, strict=True))


def coco_duels(setup: Setup) -> Iterator[Duel]:
    """The twelve box figures of 500 images with 100 detections each: hotcoco, pycocotools."""
    with TemporaryDirectory() as folder:
        truth, results = noise_coco(Path(folder), images=500, objects=7, found=100)
        yield Duel(
            "500 images x 100",
            ours=(
                Contender(
                    "hotcoco (default)",
                    lambda: official_figures(truth, results, "bbox", "hotcoco"),
                    _figures,
                    1e-9,
                ),
            ),
            peers=(
                Contender(
                    "pycocotools",
                    lambda: official_figures(truth, results, "bbox", "pycocotools"),
                    _figures,
                ),
            ),
        )


def _figures(figures: Any) -> Mapping[str, Tensor]:
    return {"figures": torch.tensor(list(figures.summary.values()), dtype=torch.float64)}


def noise_coco(
    folder: Path, *, images: int, objects: int, found: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth of random boxes in 80 categories, and detections some of which are near."""
    chance = np.random.default_rng(0)
    size = {"width": 640, "height": 480}
    boxes = np.concatenate([chance.uniform(0, 400, (images, objects, 2)),
                            chance.uniform(8, 200, (images, objects, 2))], axis=-1)  # fmt: skip
    categories = chance.integers(1, 81, (images, objects))
    annotations = [
        {
            "id": image * objects + number + 1, "image_id": image + 1,
            "category_id": int(categories[image, number]), "iscrowd": 0,
            "bbox": boxes[image, number].tolist(), "area": float(boxes[image, number, 2:].prod()),
            "segmentation": [],
        }
        for image in range(images)
        for number in range(objects)
    ]  # fmt: skip
    content = {
        "images": [{"id": i + 1, "file_name": f"{i + 1}.jpg", **size} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"category {i}"} for i in range(1, 81)],
    }
    write_json(folder / "instances.json", content)
    file = read_coco(folder / "instances.json")
    which = chance.integers(0, objects, (images, found))
    results = [
        {
            "image_id": image + 1,
            "category_id": int(categories[image, which[image, number]]),
            "bbox": (boxes[image, which[image, number]] + chance.normal(0, 20, 4)).clip(1).tolist(),
            "score": float(chance.uniform()),
        }
        for image in range(images)
        for number in range(found)
    ]
    return ground_truth(file, range(images), with_masks=False), results


CASES = (
    Case("op.msda", "deformable attention of one image on four levels", sampling_duels),
    Case("op.xattn", "cross-attention of 900 queries", attention_duels),
    Case("op.dcnv2", "deformable convolution of one image", deformed_duels),
    Case("eval.coco", "official COCO box figures", coco_duels),
)
