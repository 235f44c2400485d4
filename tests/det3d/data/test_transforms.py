import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from det3d.boxes import box_corners
from det3d.cameras import CameraRig
from det3d.data.transforms import (
    Augmentation,
    ImageZoom,
    PhotometricJitter,
    WorldFlip,
    WorldRotation,
    WorldScale,
    recolour,
)
from det3d.geometry import is_rigid, make_transform, quaternion_to_rotation
from det3d.structures import SceneBatch
from detr2d.structures import Targets

HEIGHT, WIDTH = 60, 100
SAME_CORNERS = list(range(8))
MIRRORED_CORNERS = [1, 0, 3, 2, 5, 4, 7, 6]  # left and right change places
WORLD = [
    WorldFlip(probability=1.0),
    WorldRotation(max_angle=math.pi),
    WorldScale(0.8, 1.3),
]
IMAGES = [ImageZoom(1.0, 1.6), ImageZoom(0.6, 1.0), ImageZoom(1.3, 1.3)]


def make_scene(seed: int = 0) -> SceneBatch:
    """Two cameras in general position in float64, boxes in front of them, images of ramps.

    Red grows with the column and green with the row, so that content tells its place.
    """
    random = torch.Generator().manual_seed(seed)
    base = torch.tensor([[0.5, -0.5, 0.5, -0.5], [0.1, 0.1, 0.7, -0.7]], dtype=torch.float64)
    noise = 0.02 * torch.randn(2, 4, generator=random, dtype=torch.float64)
    rotation = quaternion_to_rotation(base + noise).transpose(-1, -2)
    shift = torch.randn(2, 3, generator=random, dtype=torch.float64)
    intrinsics = torch.tensor([[70.0, 0.5, 52], [0, 66, 29], [0, 0, 1]], dtype=torch.float64)
    rig = CameraRig(
        intrinsics=intrinsics.expand(1, 2, 3, 3).clone(),
        camera_from_ref=make_transform(rotation, shift).unsqueeze(0),
        image_sizes=torch.tensor([HEIGHT, WIDTH], dtype=torch.float64).expand(1, 2, 2),
        present=torch.ones(1, 2, dtype=torch.bool),
        timestamps=torch.zeros(1, 2, dtype=torch.float64),
    )
    columns = torch.arange(WIDTH).expand(HEIGHT, WIDTH) * 2.5
    rows = torch.arange(HEIGHT).unsqueeze(1).expand(HEIGHT, WIDTH) * 4.0
    image = torch.stack([columns, rows, torch.full_like(rows, 128)]).to(torch.uint8)
    pixels = torch.rand(1, 2, 12, 2, generator=random, dtype=torch.float64)
    pixels = pixels * torch.tensor([WIDTH - 20.0, HEIGHT - 20]) + 10
    depth = 6 + 20 * torch.rand(1, 2, 12, generator=random, dtype=torch.float64)
    centres = rig.unproject(pixels, depth).flatten(0, 2)
    rest = torch.rand(24, 6, generator=random, dtype=torch.float64)
    sizes, yaw, velocity = rest[:, :3] + 0.5, 6 * rest[:, 3:4] - 3, 8 * rest[:, 4:] - 4
    boxes = torch.cat([centres, sizes, yaw, velocity], dim=1)
    boxes[0, 7:] = torch.nan
    targets = Targets(labels=torch.arange(24) % 10, boxes=boxes)
    return SceneBatch(image.expand(1, 2, 3, HEIGHT, WIDTH), rig, ("sample",), (targets,))


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def corner_pixels(scene: SceneBatch) -> tuple[Tensor, Tensor]:
    """Pixels (2, 24, 8, 2) of all corners and whether they are at least 1 m before the camera."""
    projection = scene.rig.project(box_corners(scene.targets[0].boxes).flatten(0, 1).unsqueeze(0))
    pixels, depth = projection.pixels[0], projection.depth[0]
    return pixels.unflatten(1, (24, 8)), depth.unflatten(1, (24, 8)) > 1


def expected_pixels(augmentation: Augmentation, pixels: Tensor) -> Tensor:
    """Where the image content at ``pixels`` goes, from the image operation alone."""
    if augmentation in IMAGES:
        random = generator()
        draws = [float(torch.rand((), generator=random)) for _ in range(3)]
        factor = augmentation.lower + (augmentation.upper - augmentation.lower) * draws[0]
        height, width = round(HEIGHT / factor), round(WIDTH / factor)
        top, left = round(draws[1] * (HEIGHT - height)), round(draws[2] * (WIDTH - width))
        scale = torch.tensor([WIDTH / width, HEIGHT / height])
        return (pixels - torch.tensor([left, top])) * scale
    if isinstance(augmentation, WorldFlip):
        return torch.stack([WIDTH - pixels[..., 0], pixels[..., 1]], dim=-1)
    return pixels


@pytest.mark.parametrize("augmentation", [*WORLD, *IMAGES, PhotometricJitter()], ids=repr)
def test_corners_of_new_boxes_in_the_new_rig_fall_on_the_same_content(
    augmentation: Augmentation,
) -> None:
    scene = make_scene()
    changed = augmentation(scene, generator())
    order = MIRRORED_CORNERS if isinstance(augmentation, WorldFlip) else SAME_CORNERS
    before, ahead = corner_pixels(scene)
    after, still_ahead = corner_pixels(changed)
    expected = expected_pixels(augmentation, before)
    assert ahead.sum() > 100
    error = (after[:, :, order] - expected).norm(dim=-1)
    assert error[ahead & still_ahead[:, :, order]].max() < 1e-3
    assert is_rigid(changed.rig.camera_from_ref, 1e-9).all()


@pytest.mark.parametrize("augmentation", [*WORLD, *IMAGES], ids=repr)
def test_image_content_at_the_new_projection_is_that_of_the_old(
    augmentation: Augmentation,
) -> None:
    scene = make_scene()
    changed = augmentation(scene, generator())
    centres = [s.rig.project(s.targets[0].boxes[:, :3].unsqueeze(0)) for s in (scene, changed)]
    old, new = (projection.pixels[0] for projection in centres)
    inside = (new > 2).all(-1) & (new[..., 0] < WIDTH - 2) & (new[..., 1] < HEIGHT - 2)
    seen = centres[0].visible[0] & centres[1].visible[0] & inside
    assert seen.sum() > 5
    row, column = new[seen][:, 1].long(), new[seen][:, 0].long()
    view = seen.nonzero()[:, 0]
    content = changed.images[0, view, :, row, column].float()
    torch.testing.assert_close(content[:, 0] / 2.5 + 0.5, old[seen][:, 0].float(), atol=1.2, rtol=0)
    torch.testing.assert_close(content[:, 1] / 4 + 0.5, old[seen][:, 1].float(), atol=1.2, rtol=0)


@pytest.mark.parametrize("augmentation", WORLD, ids=repr)
def test_velocity_is_the_motion_of_the_centre_and_yaw_its_heading(
    augmentation: Augmentation,
) -> None:
    scene = make_scene()
    boxes = scene.targets[0].boxes
    step = 0.1
    later = boxes.clone()
    later[:, :2] += step * boxes[:, 7:]
    ahead = boxes.clone()
    ahead[:, :2] += torch.stack([boxes[:, 6].cos(), boxes[:, 6].sin()], dim=1)

    def changed(moved: Tensor) -> Tensor:
        targets = (replace(scene.targets[0], boxes=moved),)
        return augmentation(replace(scene, targets=targets), generator()).targets[0].boxes

    now = changed(boxes)
    torch.testing.assert_close((changed(later) - now)[1:, :2] / step, now[1:, 7:])
    heading = (changed(ahead) - now)[:, :2]
    heading = heading / heading.norm(dim=1, keepdim=True)
    torch.testing.assert_close(heading, torch.stack([now[:, 6].cos(), now[:, 6].sin()], dim=1))
    assert now[0, 7:].isnan().all()


def test_scaling_the_world_scales_depth_and_sizes() -> None:
    scene = make_scene()
    changed = WorldScale(1.25, 1.25)(scene, generator())
    before, after = scene.targets[0].boxes, changed.targets[0].boxes
    torch.testing.assert_close(after[:, :6], 1.25 * before[:, :6])
    depths = [s.rig.project(s.targets[0].boxes[:, :3].unsqueeze(0)).depth for s in (scene, changed)]
    torch.testing.assert_close(depths[1], 1.25 * depths[0])


def test_flipping_twice_gives_the_scene_back() -> None:
    scene, flip = make_scene(), WorldFlip(1.0)
    twice = flip(flip(scene, generator()), generator())
    assert torch.equal(twice.images, scene.images)
    torch.testing.assert_close(twice.rig.intrinsics, scene.rig.intrinsics)
    torch.testing.assert_close(twice.rig.camera_from_ref, scene.rig.camera_from_ref)
    boxes, expected = twice.targets[0].boxes, scene.targets[0].boxes
    torch.testing.assert_close(boxes, expected, equal_nan=True)


@pytest.mark.parametrize("augmentation", [*WORLD, *IMAGES, PhotometricJitter()], ids=repr)
def test_an_augmentation_leaves_its_input_and_the_global_randomness_alone(
    augmentation: Augmentation,
) -> None:
    scene, reference = make_scene(), make_scene()
    state = torch.get_rng_state()
    first, second = (augmentation(scene, generator()) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.images, second.images)
    assert torch.equal(scene.images, reference.images)
    assert torch.equal(scene.rig.intrinsics, reference.rig.intrinsics)
    assert torch.equal(scene.rig.camera_from_ref, reference.rig.camera_from_ref)
    assert first.images.dtype == torch.uint8
    assert first.rig.camera_from_ref.dtype == torch.float64


def test_probability_decides_how_often_the_world_is_flipped() -> None:
    scene, random = make_scene(), generator()
    flips = [
        not torch.equal(WorldFlip(0.3)(scene, random).images, scene.images) for _ in range(200)
    ]
    assert 0.2 < sum(flips) / 200 < 0.4
    assert not any(WorldFlip(0.0)(scene, random) is not scene for _ in range(20))


def test_a_scene_without_targets_is_augmented_too() -> None:
    scene = replace(make_scene(), targets=None)
    assert all(augmentation(scene, generator()).targets is None for augmentation in WORLD)


@pytest.mark.parametrize("augmentation", [WorldFlip(), ImageZoom()], ids=repr)
def test_padded_images_are_refused(augmentation: Augmentation) -> None:
    scene = make_scene()
    padded = replace(scene, rig=scene.rig.cropped(torch.zeros(2), torch.tensor([50, 90])))
    with pytest.raises(ValueError, match=r"fill the canvas of \(60, 100\).*in sample sample"):
        augmentation(padded, generator())


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ((1.0, 1.0, 1.0), [[100, 200], [50, 50], [0, 100]]),
        ((0.5, 1.0, 1.0), [[50, 100], [25, 25], [0, 50]]),
        ((2.0, 1.0, 1.0), [[200, 255], [100, 100], [0, 200]]),
        # Without saturation every channel is the pixel's grey: 0.299 r + 0.587 g + 0.114 b.
        ((1.0, 1.0, 0.0), [[59, 101]] * 3),
        # Without contrast every pixel is the image's mean grey, the mean of 59.25 and 100.55.
        ((1.0, 0.0, 1.0), [[80, 80]] * 3),
    ],
)
def test_recolouring_by_hand(
    factors: tuple[float, float, float], expected: list[list[int]]
) -> None:
    image = torch.tensor([[100, 200], [50, 50], [0, 100]], dtype=torch.uint8).view(1, 3, 1, 2)
    changed = recolour(image, *torch.tensor(factors).unsqueeze(1))
    assert changed.view(3, 2).tolist() == expected


def test_each_image_gets_its_own_colours() -> None:
    scene = make_scene()
    changed = PhotometricJitter(0.5, 0.0, 0.0)(scene, generator()).images[0]
    assert not torch.equal(changed[0], changed[1])
