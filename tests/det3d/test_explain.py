from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from det3d.geometry import Region
from det3d.visualization.cameras import PictureStyle, scene_views
from det3d.visualization.explain import moments, off_centre, reach_of, way_of_the_box
from detr2d.explain import Explanation
from detr2d.structures import Detections, Predictions
from tests.helpers.rigs import random_scene


def explanation() -> Explanation:
    codes, references = torch.zeros(2, 1, 3, 10), torch.full((3, 1, 3, 3), 0.5)
    codes[:, 0, 2, :3] = torch.tensor([[1.0, 2, 0], [3.0, 40, 0]])
    boxes, zero = torch.tensor([[3.0, 40, 0, 4, 2, 1, 0, 0, 0]]), torch.zeros(1, dtype=torch.int64)
    found = Detections(torch.ones(1), zero, boxes, torch.tensor([2]))
    return Explanation(found, (), Predictions(torch.zeros(2, 1, 3, 1), codes, references))


def test_earlier_cameras_are_moments_of_their_own_that_say_how_old_they_are() -> None:
    scene = random_scene(4)
    times = torch.tensor([[10.0, 10.0, 8.9, 9.1]], dtype=torch.float64)
    scene = replace(scene, rig=replace(scene.rig, timestamps=times))
    now, before = moments(scene, ("left", "right"))
    assert now.names == ("left", "right")
    assert before.names == ("left, 1.0 s earlier", "right, 1.0 s earlier")
    assert torch.equal(before.scene.images, scene.images[:, 2:])
    assert torch.equal(before.scene.rig.camera_from_ref, scene.rig.camera_from_ref[:, 2:])


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="4 cameras are no multiple of the 3 names"):
        moments(random_scene(4), ("a", "b", "c"))


def test_the_way_leads_from_the_reference_over_the_centre_after_each_layer() -> None:
    trails = way_of_the_box(explanation(), Region())
    assert trails is not None
    expected = [Region().to_metres(torch.full((3,), 0.5)).tolist(), [1, 2, 0], [3, 40, 0]]
    torch.testing.assert_close(trails.references[:, 0], torch.tensor(expected))
    assert reach_of(explanation(), trails) == pytest.approx(
        1.15 * 42
    )  # half its length beyond its centre
    assert way_of_the_box(explanation(), None) is None


def test_a_box_that_no_layer_looked_at_is_shown_by_the_camera_that_has_it_in_the_middle() -> None:
    scene, style = random_scene(4), PictureStyle(camera_width=112)
    views = [view for row in scene_views(scene, style, tuple("abcd")) for view in row]
    ahead = {view.name: off_centre(view, torch.tensor([[10.0, 0.1, 0, 4, 2, 1, 0, 0, 0]]))
             for view in views}  # fmt: skip
    assert min(ahead, key=ahead.__getitem__) == "a"
    assert ahead["a"] == pytest.approx(0.01 * 112 / (2 * 56 * np.tan(np.radians(35))), rel=0.02)
    assert ahead["c"] == np.inf
