"""What is fuzzed: valid files of every kind, and the readers that tools hand them to."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from det3d.data.nuscenes import NuScenesConfig
from det3d.doctor.targets import Surroundings, examine
from det3d.evaluation.nuscenes_truth import open_objects
from det3d.results.convert import convert
from det3d.results.format import read_results
from det3d.results.nuscenes import database_frame, to_official, write_submission
from det3d.viewer.page import PageStyle, write_page
from det3d.visualization.result_source import ResultSource
from detr2d.checkpoints.convert import start_from
from detr2d.checkpoints.files import Origin, export_weights, load_state, save_state
from detr2d.checkpoints.official import read_official
from detr2d.config import load_experiment, parse_experiment, to_json
from detr2d.curves import read_series
from detr2d.data.coco import CocoConfig
from detr2d.data.image_files import read_image, read_image_of_size
from detr2d.data.panoptic import CocoPanopticConfig
from detr2d.data.transforms import scaled_resolution
from detr2d.doctor.images import Wanted, look_at
from detr2d.results import read_results as read_coco_results
from tests.det3d.doctor.test_infos import entry
from tests.detr2d.checkpoints.test_convert import official_state, write_config
from tests.fuzz.mutate import mutate_bytes, mutate_json
from tests.helpers.result_frames import make_frame, write_result_file
from tests.helpers.tiny_coco import write_tiny_coco
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes

Mutate = Callable[[bytes, random.Random], bytes]
VERSION = "v1.0-mini"


@dataclass(frozen=True)
class Target:
    """One kind of input.

    ``prepare`` writes valid files into an empty folder; ``files`` chooses those to damage (relative
    names with ``*``), ``mutate`` damages one, and ``read`` hands the folder to the readers. An
    error must say one of ``named(damaged file)``.
    """

    name: str
    prepare: Callable[[Path], Any]
    files: tuple[str, ...]
    mutate: Mutate
    read: Callable[[Path, Path], Any]
    named: Callable[[Path], tuple[str, ...]] = lambda file: (file.name,)


def coco_data(root: Path) -> CocoConfig:
    return CocoConfig(
        root=root, training_images="images", training_annotations="instances.json",
        evaluation_images="images", evaluation_annotations="instances.json",
        resolution=scaled_resolution(32), masks=True,
    )  # fmt: skip


def read_instances(root: Path, file: Path) -> None:
    data = coco_data(root)
    for dataset in (data.evaluation_set(), data.training_set(0)):
        for item in range(len(dataset)):
            data.collate([dataset[item]])


def read_panoptic(root: Path, file: Path) -> None:
    data = CocoPanopticConfig(
        root=root, training_images="images", training_annotations="panoptic.json",
        training_maps="maps", evaluation_images="images", evaluation_annotations="panoptic.json",
        evaluation_maps="maps", resolution=scaled_resolution(32),
    )  # fmt: skip
    dataset = data.evaluation_set()
    for item in range(len(dataset)):
        dataset[item]


def write_database(root: Path) -> None:
    write_tiny_nuscenes(root, scenes={"scene-0103": 2}, image_size=(18, 32))


def nuscenes_data(root: Path) -> NuScenesConfig:
    return NuScenesConfig(
        root=root, version=VERSION, evaluation_split="mini_val", image_size=(18, 32),
        index_dir=root.parent / "index",
    )  # fmt: skip


def read_database(root: Path, file: Path) -> None:
    dataset = nuscenes_data(root).evaluation_set()
    open_objects(dataset.index, root)
    for item in range(len(dataset)):
        dataset[item]
        dataset.lidar_points(item)


def write_images(root: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    for suffix in ("jpg", "png", "gif", "bmp", "webp", "tif"):
        picture.save(root / f"picture.{suffix}")
    picture.save(root / "progressive.jpg", progressive=True)
    picture.convert("CMYK").save(root / "cmyk.jpg")
    picture.quantize(8).save(root / "palette.png")


def read_pictures(root: Path, file: Path) -> None:
    look_at(root, Wanted("it", file.name, (24, 32)), decode=True)
    sized = lambda: read_image_of_size(file, (24, 32), "here", "it is")  # noqa: E731
    for read in (lambda: read_image(file), sized):
        with contextlib.suppress(ValueError):
            read()


def write_checkpoints(root: Path) -> None:
    config = write_config(root, "small", classes=("a", "b"))
    experiment = load_experiment(config)
    model = experiment.system.build(("a", "b"))
    origin = Origin(to_json(experiment), ("a", "b"))
    export_weights(root / "model.safetensors", model.state_dict(), origin)
    torch.save({"model": official_state(config)}, root / "official.pth")
    torch.save(official_state(config), root / "old.pth", _use_new_zipfile_serialization=False)
    state = {"model": model.state_dict(), "optimizer": {}, "average": None, "steps_per_epoch": 3}
    save_state(root, 3, state, origin, keep=2)


def read_checkpoints(root: Path, file: Path) -> None:
    if file.suffix == ".safetensors":
        experiment = load_experiment(root / "small.py")
        start_from(experiment.system.build(("a", "b")), file, ("a", "b"))
    elif file.suffix == ".pth":
        read_official(file)
    else:
        load_state(file.parent)


WORDS = (
    "--train.lr", "--train.epochs", "--train.schedule", "--train.step-epochs", "--data.root",
    "--train.precision", "--work-dir", "--train.ema-decay", "--system.backbone.depth", "--nothing",
    "--train", "--train.lr=", "--data.resolution.shortest", "--help-me", "-x", "--", "1e-3", "nan",
    "inf", "-1", "0", "99999999999999999999", "bfloat16", "step", "x" * 2000, "", "None", "True",
    "1,2", "(1,2)", "[]", "{}", "../x", "\ud800", "--train.only", "--train.start-from", "é", "\n",
)  # fmt: skip


def mutate_words(content: bytes, rng: random.Random) -> bytes:
    """A command line of settings that may or may not exist, as JSON."""
    return json.dumps([rng.choice(WORDS) for _ in range(rng.randrange(1, 5))]).encode()


def write_words(root: Path) -> None:
    write_config(root, "small")
    (root / "words.json").write_text("[]")


def read_words(root: Path, file: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        parse_experiment([str(root / "small.py"), *json.loads(file.read_text())])


def write_view(root: Path) -> None:
    write_result_file(root, make_frame(num_cameras=2))


def read_view(root: Path, file: Path) -> None:
    results = read_results(file)
    ResultSource(results, score=0.3, with_lidar=True).look(0)
    write_page(results, root.parent / "page.html", PageStyle())


def write_official(root: Path) -> None:
    write_database(root)
    index = nuscenes_data(root).open_index()
    frames = [database_frame(index, row, None) for row in range(len(index))]
    boxes = {}
    for frame in frames:
        truth = frame.ground_truth
        assert truth is not None
        scored = type(truth)(truth.boxes, truth.labels, np.linspace(0.9, 0.1, len(truth)))
        boxes[frame.token] = to_official(scored, frame.token, frame.global_from_ref)
    write_submission(root / "submission.json", boxes)


def read_official_results(root: Path, file: Path) -> None:
    convert(
        file, root.parent / "converted.json", root=root, version=VERSION, select=None,
        index_dir=root.parent / "index",
    )  # fmt: skip


KEYS = ("image_id", "category_id", "score")


def write_coco_results(root: Path) -> None:
    write_tiny_coco(root)
    rows = json.loads((root / "instances.json").read_text())["annotations"]
    found = [
        {
            "image_id": r["image_id"],
            "category_id": r["category_id"],
            "bbox": r["bbox"],
            "score": 0.5,
        }
        for r in rows
    ]
    masks = [
        {**{k: f[k] for k in KEYS}, "segmentation": r["segmentation"]}
        for f, r in zip(found, rows, strict=True)
        if isinstance(r["segmentation"], dict) and isinstance(r["segmentation"]["counts"], str)
    ]  # fmt: skip
    (root / "results_bbox.json").write_text(json.dumps(found))
    (root / "results_segm.json").write_text(json.dumps(masks))


def read_found(root: Path, file: Path) -> None:
    data = coco_data(root)
    dataset = data.evaluation_set()
    find = read_coco_results(file, dataset.label_map)
    for item in range(len(dataset)):
        find(dataset[item], 0.1)


def write_log(root: Path) -> None:
    lines = [{"step": s, "epoch": 1, "loss": 0.5, "losses": {"a": 1.0}, "lr": 0.1} for s in (1, 2)]
    (root / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def mutate_lines(content: bytes, rng: random.Random) -> bytes:
    """One of the lines damaged."""
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(lines[at], rng)
    return b"\n".join(lines)


def read_log(root: Path, file: Path) -> None:
    read_series(file)


def examined(target: Callable[[Path, Path], Path]) -> Callable[[Path, Path], None]:
    """The doctor's look at what ``target`` chooses of (folder, damaged file)."""

    def read(root: Path, file: Path) -> None:
        around = Surroundings(index_dir=root.parent / "index")
        examine(target(root, file), around, [])

    return read


def whole(root: Path, file: Path) -> Path:
    return root


def itself(root: Path, file: Path) -> Path:
    return file


def write_infos(root: Path) -> None:
    """Both generations of mmdet3d's info files, as JSON."""
    old = entry()
    camera = old["cams"]["CAM_FRONT"]
    new = {
        "token": "t",
        "instances": [
            {"bbox_3d": box, "bbox_label_3d": number % 2, "velocity": [1.0, 0.5]}
            for number, box in enumerate(old["gt_boxes"].tolist())
        ],
        "images": {
            "CAM_FRONT": {
                "lidar2cam": np.eye(4).tolist(),
                "cam2img": camera["cam_intrinsic"].tolist(),
            }
        },
    }
    meta = {"categories": {"car": 0, "truck": 1}}
    plain = json.dumps({"infos": [old, old]}, default=lambda array: array.tolist())
    (root / "old.json").write_text(plain)
    (root / "new.json").write_text(json.dumps({"metainfo": meta, "data_list": [new, new]}))


TABLES = (f"{VERSION}/*.json",)
WEIGHTS = ("*.safetensors", "*.pth")
TARGETS = (
    Target("coco", write_tiny_coco, ("instances.json",), mutate_json, read_instances),
    Target("panoptic", write_tiny_coco, ("panoptic.json",), mutate_json, read_panoptic),
    Target("maps", write_tiny_coco, ("maps/*.png", "images/*.png"), mutate_bytes, read_panoptic),
    Target(
        "tables", write_database, TABLES, mutate_json, read_database,
        named=lambda file: (file.name, str(file.parents[1])),  # tables that contradict each other
    ),
    Target("frames", write_database, ("samples/*/*",), mutate_bytes, read_database),
    Target("images", write_images, ("*",), mutate_bytes, read_pictures),
    Target(
        "checkpoints", write_checkpoints, (*WEIGHTS, "*/*/state.pt"), mutate_bytes,
        read_checkpoints,
    ),
    Target(
        "overrides", write_words, ("words.json",), mutate_words, read_words,
        named=lambda file: ("",),  # what is wrong are words, not a file
    ),
    Target("results", write_view, ("results.json",), mutate_json, read_view),
    Target("submissions", write_official, ("submission.json",), mutate_json, read_official_results),
    Target("coco results", write_coco_results, ("results_*.json",), mutate_json, read_found),
    Target("logs", write_log, ("log.jsonl",), mutate_lines, read_log),
    Target("doctor: coco", write_tiny_coco, ("*.json",), mutate_json, examined(whole)),
    Target("doctor: tables", write_database, TABLES, mutate_json, examined(whole)),
    Target(
        "doctor: checkpoints", write_checkpoints, WEIGHTS, mutate_bytes, examined(itself)
    ),
    Target("doctor: results", write_view, ("results.json",), mutate_json, examined(itself)),
    Target(
        "doctor: submissions", write_official, ("submission.json",), mutate_json,
        examined(itself),
    ),
    Target("doctor: infos", write_infos, ("*.json",), mutate_json, examined(itself)),
)  # fmt: skip
