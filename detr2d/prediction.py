"""A trained 2D detector on image files and data sets: results as JSON, pictures to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.io import write_png
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional as move

from detr2d.config import DataConfig, Experiment
from detr2d.data.coco import CocoConfig
from detr2d.data.image_files import read_image
from detr2d.data.panoptic import CocoPanopticConfig
from detr2d.data.panoptic_files import encode_segment_map
from detr2d.data.transforms import Resolution, prepare_image
from detr2d.evaluation.coco import encode_masks, write_json
from detr2d.inference import load_model, prepare_inference
from detr2d.results import Finder
from detr2d.structures import Detections, ImageBatch, Predictions
from detr2d.visualize import draw_detections, draw_segments, draw_targets

RESULTS_FILE = "predictions.json"


@dataclass(frozen=True)
class Detector:
    """A model as a function, with everything that turns a batch into detections."""

    experiment: Experiment
    predict: Callable[[Any], Predictions]
    device: torch.device

    @torch.inference_mode()
    def __call__(self, batch: Any, score: float) -> list[Detections]:
        """Detections of at least ``score`` in each image or scene, best first, on the CPU."""
        found = self.experiment.system.postprocess(self.predict(batch.to(self.device)))
        return [best_first(image.to("cpu"), score) for image in found]


def best_first(found: Detections, score: float) -> Detections:
    """The detections of at least ``score``, the best ones first."""
    order = found.scores.argsort(descending=True, stable=True)
    return found.select(order[found.scores[order] >= score])


def load_detector(experiment: Experiment, checkpoint: Path) -> Detector:
    """The experiment's model with exported weights, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(experiment, checkpoint).to(device)
    train = experiment.train
    predict = prepare_inference(model, train.precision, device, compiled=train.compiled)
    return Detector(experiment, predict, device)


def image_resolution(data: DataConfig) -> Resolution:
    """The resolution that a 2D data config asks for. Raises ValueError for other data."""
    if not isinstance(data, CocoConfig | CocoPanopticConfig):
        raise ValueError(
            "expected a config whose data is a CocoConfig or a CocoPanopticConfig, "
            f"got {type(data).__name__}"
        )
    return data.resolution


def predict_files(
    detector: Detector, paths: Sequence[Path], output_dir: Path, *, score: float
) -> list[Path]:
    """Run on image files; write predictions.json and a picture of each, and return these paths.

    Where the system makes a panoptic segmentation, its COCO map is written beside the picture.
    Raises FileNotFoundError or ValueError for a file that is missing or cannot be read.
    """
    resolution = image_resolution(detector.experiment.data)
    classes = detector.experiment.data.class_names()
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"image file {path} is missing")
    output_dir.mkdir(parents=True, exist_ok=True)
    written, results = [], []
    for path, name in zip(paths, unique_names(paths), strict=True):
        image = read_image(path)
        found = detector(prepare_image(image, str(path), resolution), score)[0]
        result = describe(str(path), image, found, classes)
        if found.segments is not None:
            result["segment_map"] = f"{name}_segments.png"
            segment_map = output_dir / f"{name}_segments.png"
            segment_map.write_bytes(encode_segment_map(found.segments.id_map))
            written.append(segment_map)
        results.append(result)
        written.append(output_dir / f"{name}.png")
        write_png(draw_found(image, found, classes), str(written[-1]))
    write_json(output_dir / RESULTS_FILE, results)
    return [output_dir / RESULTS_FILE, *written]


def describe(name: str, image: Tensor, found: Detections, classes: Sequence[str]) -> dict[str, Any]:
    """Detections in an image (3, H, W) as JSON: bbox is x, y, width, height in its pixels."""
    height, width = image.shape[-2:]
    scale = torch.tensor([width, height, width, height])
    boxes = (box_convert(found.boxes, "cxcywh", "xywh") * scale).tolist()
    objects: list[dict[str, Any]] = [
        {"class": classes[label], "score": score, "bbox": box}
        for label, score, box in zip(
            found.labels.tolist(), found.scores.tolist(), boxes, strict=True
        )
    ]
    if found.masks is not None:
        for described, runs in zip(objects, encode_masks(found.masks), strict=True):
            described["segmentation"] = runs
    result: dict[str, Any] = {"image": name, "height": height, "width": width, "objects": objects}
    if found.segments is not None:
        result["segments"] = [
            {"id": number, "class": classes[label], "score": score}
            for number, (label, score) in enumerate(
                zip(found.segments.labels.tolist(), found.segments.scores.tolist(), strict=True),
                start=1,
            )
        ]
    return result


def unique_names(paths: Sequence[Path]) -> Iterator[str]:
    """The stem of each path, numbered where it repeats."""
    seen: dict[str, int] = {}
    for path in paths:
        seen[path.stem] = seen.get(path.stem, 0) + 1
        yield path.stem if seen[path.stem] == 1 else f"{path.stem}_{seen[path.stem]}"


def draw_found(image: Tensor, found: Detections, classes: Sequence[str]) -> Tensor:
    """The picture of an image (3, H, W): its segmentation if there is one, else its objects."""
    if found.segments is not None:
        return draw_segments(image, found.segments, classes)
    return draw_detections(image, found, classes)


def write_pictures(
    data: DataConfig,
    items: Sequence[int],
    output_dir: Path,
    *,
    detector: Finder | None = None,
    score: float = 0.5,
) -> list[Path]:
    """Pictures of evaluation images: what is annotated, and beside it what a detector finds.

    ``items`` are positions in the evaluation set; a ``detector`` can also be a result file, see
    ``detr2d.results``. Returns the paths of the PNG files, named by
    image id.
    """
    dataset, classes = data.evaluation_set(), data.class_names()
    output_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for item in items:
        batch = dataset[item]
        image = original_image(batch)
        pictures = [draw_annotated(batch, image, classes)]
        if detector is not None:
            pictures.append(draw_found(image, detector(batch, score)[0], classes))
        paths.append(output_dir / f"{batch.tokens[0]}.png")
        write_png(beside(pictures), str(paths[-1]))
    return paths


def draw_annotated(batch: ImageBatch, image: Tensor, classes: Sequence[str]) -> Tensor:
    """The targets of a batch of one on its image at the original size."""
    if batch.targets is None:
        return image
    targets = batch.targets[0]
    if targets.masks is not None:
        masks = move.resize_mask(targets.masks, list(image.shape[-2:]))
        targets = replace(targets, masks=masks)
    return draw_targets(image, targets, classes)


def original_image(batch: ImageBatch) -> Tensor:
    """The image (3, H, W) uint8 of a batch of one, back at its original size."""
    height, width = batch.image_sizes[0].int().tolist()
    size = batch.original_sizes[0].int().tolist()
    return move.resize_image(batch.images[0, :, :height, :width], size, antialias=True)


def beside(pictures: Sequence[Tensor], gap: int = 8) -> Tensor:
    """Pictures (3, H, W) of one size next to each other, wide ones below each other."""
    along = 1 if pictures[0].shape[-1] > 1.4 * pictures[0].shape[-2] else 2
    shape = list(pictures[0].shape)
    shape[along] = gap
    parts: list[Tensor] = [pictures[0]]
    for picture in pictures[1:]:
        parts += [pictures[0].new_full(shape, 255), picture]
    return torch.cat(parts, dim=along)
