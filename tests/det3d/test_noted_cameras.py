"""What the host knows of a rig without asking the device that it lies on."""

from __future__ import annotations

from dataclasses import replace

import torch

from det3d.cameras import CameraRig
from tests.helpers.rigs import random_scene, ring_rig


def one_absent() -> CameraRig:
    present = torch.tensor([[True, True, True], [True, False, True]])
    return replace(ring_rig(3, scenes=2), present=present)


def test_a_rig_that_moves_leaves_behind_who_is_present() -> None:
    rig = one_absent().to("meta")
    assert rig.present.device.type == "meta"
    assert rig.noted == ((True, True, True), (True, False, True))
    rows = rig.present_rows()
    assert rows is not None and rows.shape == (5,)


def test_a_scene_that_moves_leaves_behind_who_is_present() -> None:
    scene = random_scene(3, scenes=2)
    moved = replace(scene, rig=one_absent()).to("meta")
    assert moved.images.device.type == "meta" and moved.rig.noted == one_absent().note()
    assert scene.to("meta").rig.present_rows() is None  # all are there


def test_rows_are_places_among_all_cameras() -> None:
    rows = one_absent().present_rows()
    assert rows is not None and rows.tolist() == [0, 1, 2, 3, 5]
    assert ring_rig(3).present_rows() is None


def test_a_part_of_a_rig_is_these_cameras_on_any_device() -> None:
    rig = one_absent()
    part, chosen = rig.part(1, 2), rig.select([1, 2])
    assert torch.equal(part.present, chosen.present)
    assert torch.equal(part.camera_from_ref, chosen.camera_from_ref)
    assert rig.to("meta").part(1, 2).noted == ((True, True), (False, True))


def test_on_the_host_presence_is_read_where_it_stands() -> None:
    """A rig that came back from a device and was changed there is not believed to be as it was."""
    rig = one_absent().to("cpu")
    nobody = replace(rig, present=torch.zeros(2, 3, dtype=torch.bool))
    rows = nobody.present_rows()
    assert rows is not None and len(rows) == 0
