"""Every toy config can be explained: what is drawn is what its model's attention did."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from det3d.data.nuscenes import NuScenesConfig
from det3d.visualization.explain_request import ExplainRequest, explain_to_file
from detr2d.checkpoints.files import Origin, export_weights
from detr2d.config import Experiment, load_experiment, to_json
from detr2d.explain import Explanation, explain
from detr2d.looks import cross_attentions
from tests.helpers.hiding import hidden
from tests.helpers.tiny_coco import SIZES, write_tiny_coco
from tests.helpers.tiny_nuscenes import CAMERA_YAWS, write_tiny_nuscenes

TOYS = sorted((Path(__file__).resolve().parents[2] / "configs" / "toy").glob("*.py"))
CONFIGS = [path for path in TOYS if not path.stem.endswith("_r50")]  # the same systems, larger
SCENE = (96, 160)  # height and width of the cameras' images


@dataclass(frozen=True)
class Explained:
    """A toy config on a tiny data set, its model, one item and the explanation of a box of it."""

    experiment: Experiment
    model: nn.Module
    item: Any
    explanation: Explanation


def on_tiny_data(experiment: Experiment, folder: Path) -> Experiment:
    """The same system on data that is written in a moment."""
    data = experiment.data
    if isinstance(data, NuScenesConfig):
        root = write_tiny_nuscenes(folder / "world")
        tiny = replace(data, root=root, image_size=SCENE, index_dir=folder / "index")
        return replace(experiment, data=tiny, work_dir=folder)
    places: dict[str, Any] = {"evaluation_images": "images", "classes": ()}
    kind = "panoptic" if hasattr(data, "evaluation_maps") else "instances"
    places["evaluation_annotations"] = f"{kind}.json"
    system: Any = experiment.system
    if kind == "panoptic":
        places["evaluation_maps"] = "maps"
        system = replace(system, num_things=3)
    tiny = replace(data, root=write_tiny_coco(folder / "coco"), **places)
    return replace(experiment, system=system, data=tiny, work_dir=folder)


def random_model(experiment: Experiment) -> nn.Module:
    """The model with random weights, also where training starts from zero."""
    torch.manual_seed(0)
    model = experiment.system.build(experiment.data.class_names()).eval()
    for parameter in model.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda path: path.stem)
def explained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Explained:
    folder = tmp_path_factory.mktemp(request.param.stem)
    experiment = on_tiny_data(load_experiment(request.param), folder)
    model, dataset = random_model(experiment), experiment.data.evaluation_set()
    item = dataset[1]
    found = explain(model, experiment.system.postprocess, item, box=1)
    return Explained(experiment, model, item, found)


def boxes_of_query(explained: Explained, hiding: bool) -> Tensor:
    """The last layer's code of the explained query, perhaps without what the layers looked at."""

    def hide(_: nn.Module, arguments: tuple) -> tuple:
        *others, memory = arguments
        return (*others, hidden(memory, explained.explanation.layers))

    handles = [
        attention.register_forward_pre_hook(hide)
        for attention in cross_attentions(explained.model)
        if hiding
    ]
    with torch.inference_mode():
        codes = explained.model(explained.item).codes
    for handle in handles:
        handle.remove()
    return codes[-1, 0, explained.explanation.found.queries[0]]


def test_every_layer_has_a_look_and_its_weights_sum_to_one(explained: Explained) -> None:
    layers = explained.explanation.layers
    views = explained.item.images.shape[1] if explained.item.images.dim() == 5 else 1
    assert len(layers) == len(cross_attentions(explained.model)) >= 2
    assert len(layers) == len(explained.explanation.predictions.codes)
    for looks in layers:
        assert looks.weights.shape[:3] == (1, views, 1)
        assert looks.places.shape == (*looks.weights.shape, 2)
        assert looks.grid is None or looks.grid[0] * looks.grid[1] == looks.weights.shape[3]
        assert bool((looks.weights >= 0).all())
        torch.testing.assert_close(looks.weights.sum(), torch.tensor(1.0))


def test_hiding_the_places_that_are_shown_moves_the_box(explained: Explained) -> None:
    before = boxes_of_query(explained, hiding=False)
    after = boxes_of_query(explained, hiding=True)
    torch.testing.assert_close(boxes_of_query(explained, hiding=False), before, rtol=0, atol=0)
    assert float((before - after).abs().max()) > 1e-3


def test_the_picture_shows_every_layer_and_every_camera(
    explained: Explained, tmp_path: Path
) -> None:
    experiment, path = explained.experiment, tmp_path / "model.safetensors"
    origin = Origin(to_json(experiment), experiment.data.class_names())
    export_weights(path, explained.model.state_dict(), origin)
    token, picture = explained.item.tokens[0], tmp_path / "picture.png"
    said = explain_to_file(
        experiment,
        ExplainRequest(checkpoint=path, output=picture, sample=token, box=1, camera_width=SCENE[1]),
    )
    assert said.endswith(f"query {int(explained.explanation.found.queries[0])} of sample {token}")
    drawn = np.asarray(Image.open(picture))
    assert drawn.std() > 5
    if isinstance(experiment.data, NuScenesConfig):
        rows = 2 * explained.item.rig.num_cameras // len(CAMERA_YAWS)
        above = rows * (SCENE[0] + 4) - 4
        assert drawn.shape[1] == 3 * (SCENE[1] + 4) + above
    else:
        assert explained.item.tokens[0] in map(str, SIZES)
