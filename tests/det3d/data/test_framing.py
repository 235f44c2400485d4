"""Framed images and framed cameras stay together, on drawn images and on the real frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize_image

from det3d.boxes import box_corners
from det3d.data.appearance import GridMask, PhotometricDistortion
from det3d.data.framing import (
    Chance,
    Framing,
    NativeSize,
    ResizeCropFlip,
    Stretch,
    Window,
    frame_image,
    frame_rig,
    pad_canvas,
    rows_above,
)
from det3d.data.nuscenes import NuScenesConfig, NuScenesDataset, item_seed
from det3d.data.transforms import WorldFlip, WorldRotation, WorldScale
from det3d.structures import SceneBatch
from tests.helpers.rigs import ring_rig
from tests.helpers.tiny_nuscenes import write_tiny_nuscenes

REAL = Path(__file__).resolve().parents[3] / "../shared/real/nuscenes_frame"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real/nuscenes_frame")
NATIVE = (90, 160)


def ramps(height: int, width: int) -> Tensor:
    """An image whose red is the column and whose green is the row of each pixel."""
    columns = torch.arange(width).expand(height, width)
    rows = torch.arange(height).unsqueeze(1).expand(height, width)
    return torch.stack([columns, rows, torch.zeros_like(rows)]).to(torch.uint8)


def mapped(pixels: Tensor, native: tuple[int, int], window: Window) -> Tensor:
    """Where native pixels (..., 2) lie in the framed image, worked out by hand."""
    u = pixels[..., 0] * (window.resized[1] / native[1]) - window.corner[1]
    v = pixels[..., 1] * (window.resized[0] / native[0]) - window.corner[0]
    return torch.stack([window.size[1] - u if window.mirrored else u, v], dim=-1)


def test_evaluation_keeps_the_bottom_rows_and_the_middle_columns() -> None:
    window = ResizeCropFlip().window((900, 1600), (320, 800), None)
    assert window.resized == (450, 800) and window.corner == (130, 0)
    window = ResizeCropFlip().window((900, 1600), (512, 1408), None)
    assert window.resized == (792, 1408) and window.corner == (280, 0)
    window = ResizeCropFlip().window((90, 160), (45, 60), None)
    assert window.resized == (45, 80) and window.corner == (0, 10) and not window.mirrored


def test_training_draws_zoom_column_and_mirror_within_their_limits() -> None:
    framing = ResizeCropFlip(zoom=(0.94, 1.25), mirror=0.5)
    generator = torch.Generator().manual_seed(0)
    windows = [framing.window((900, 1600), (320, 800), framing.draw(generator)) for _ in range(200)]
    widths = [window.resized[1] for window in windows]
    assert min(widths) >= 752 and max(widths) < 1000 and max(widths) - min(widths) > 200
    assert 60 < sum(window.mirrored for window in windows) < 140
    assert all(0 <= w.corner[1] <= max(0, w.resized[1] - 800) for w in windows)
    assert all(w.corner[0] + 320 == w.resized[0] for w in windows)


@pytest.mark.parametrize(
    "framing, chance",
    [
        (Stretch(), None),
        (NativeSize(), None),
        (ResizeCropFlip(), None),
        (ResizeCropFlip(), Chance(1.3, 0.4, 0.9)),
        (ResizeCropFlip(), Chance(1.3, 0.4, 0.1)),
        (ResizeCropFlip(), Chance(0.8, 0.0, 0.1)),
    ],
)
def test_content_and_projection_move_together(framing: Framing, chance: Chance | None) -> None:
    window = framing.window(NATIVE, (50, 100), chance)
    image = frame_image(ramps(*NATIVE), window)
    assert tuple(image.shape[1:]) == window.size
    rig = ring_rig(1, NATIVE)
    points = rig.unproject(torch.tensor([[[[40.5, 60.5], [80.5, 50.5], [100.5, 70.5]]]]).float(),
                           torch.tensor([[[5.0, 9.0, 20.0]]]))  # fmt: skip
    before = rig.project(points.flatten(1, 2)).pixels[0, 0]
    after = frame_rig(rig, [window]).project(points.flatten(1, 2)).pixels[0, 0]
    torch.testing.assert_close(after, mapped(before, NATIVE, window), atol=1e-3, rtol=0)
    inside = ((after > 1) & (after < torch.tensor([window.size[1], window.size[0]]) - 1)).all(-1)
    assert inside.any()
    for (u, v), (x, y) in zip(after[inside], before[inside], strict=True):
        content = image[:2, int(v), int(u)].float() + 0.5
        assert (content - torch.stack([x, y])).abs().max() < 2.5  # a cell of up to two pixels


def noisy_photo(height: int, width: int) -> Tensor:
    """Soft shapes and noise, as a decoder lays images out."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 9, 16, generator=generator) * 255
    soft = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    noisy = soft + 8 * torch.randn(3, height, width, generator=generator)
    pixels = noisy.clamp(0, 255).to(torch.uint8)
    return pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def framed_by_pillow(image: Tensor, window: Window) -> Tensor:
    """The definition: Pillow resizes the whole image, then it is cut (black outside), mirrored."""
    (top, left), (height, width) = window.corner, window.size
    kind = {InterpolationMode.BICUBIC: 3, InterpolationMode.BILINEAR: 2}[window.smooth]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture = picture.resize(window.resized[::-1], kind)
    picture = picture.crop((left, top, left + width, top + height))
    found = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return found.flip(-1) if window.mirrored else found


@pytest.mark.parametrize(
    ("framing", "size", "chance"),
    [
        (ResizeCropFlip(), (320, 800), None),
        (ResizeCropFlip(), (512, 1408), None),
        (ResizeCropFlip(), (640, 1600), None),
        (ResizeCropFlip(), (256, 704), None),
        (ResizeCropFlip(), (320, 800), Chance(0.94, 0.3, 0.9)),
        (ResizeCropFlip(), (320, 800), Chance(1.25, 0.7, 0.1)),
        (ResizeCropFlip(), (512, 1408), Chance(1.136, 0.5, 0.1)),
        (Stretch(), (360, 640), None),
    ],
)
def test_framed_bytes_are_pillows_but_for_rounding(
    framing: Framing, size: tuple[int, int], chance: Chance | None
) -> None:
    window = framing.window((900, 1600), size, chance)
    image = noisy_photo(900, 1600)
    found, expected = frame_image(image, window), framed_by_pillow(image, window)
    assert found.dtype == torch.uint8 and found.shape == expected.shape
    apart = (found.int() - expected.int()).abs()
    assert apart.max() <= 2 and (apart > 1).sum() <= 1e-5 * apart.numel()
    assert (apart > 0).sum() <= 0.01 * apart.numel()


@pytest.mark.parametrize("size", [(320, 800), (512, 1408), (256, 704), (450, 1500)])
def test_rows_above_the_window_change_nothing(size: tuple[int, int]) -> None:
    window = ResizeCropFlip().window((900, 1600), size, None)
    unseen, above = rows_above(900, window)
    assert 0 < unseen < 900 and unseen * window.resized[0] == above * 900
    image = noisy_photo(900, 1600)
    changed = image.clone()
    changed[:, :unseen] = 0
    whole = resize_image(image, list(window.resized), window.smooth)
    top, left = window.corner
    expected = whole[:, top : top + size[0], left : left + size[1]]
    assert torch.equal(frame_image(image, window), expected)
    assert torch.equal(frame_image(changed, window), expected)


def test_padding_makes_sides_divisible_and_stays_black() -> None:
    padded = pad_canvas(torch.ones(2, 3, 45, 80), 32)
    assert padded.shape == (2, 3, 64, 96)
    assert padded[..., 45:, :].eq(0).all() and padded[..., 80:].eq(0).all()


def test_cameras_of_several_sizes_share_a_canvas(tmp_path: Path) -> None:
    root = write_tiny_nuscenes(tmp_path / "tiny")
    config = NuScenesConfig(
        root=root, version="v1.0-mini", evaluation_split="mini_train", index_dir=tmp_path,
        framing=NativeSize(), size_divisor=32,
    )  # fmt: skip
    scene = config.evaluation_set()[0]
    assert scene.images.shape[-2:] == (64, 96)
    assert scene.rig.image_sizes.unique(dim=1).tolist() == [[[45.0, 80.0]]]


def corners(scene: SceneBatch) -> tuple[Tensor, Tensor]:
    """Pixels (V, N, 2) and depths (V, N) of all corners of all boxes."""
    assert scene.targets is not None
    found = scene.rig.project(box_corners(scene.targets[0].boxes).view(1, -1, 3))
    return found.pixels[0], found.depth[0]


@pytest.mark.real
@needs_real
@pytest.mark.parametrize(
    "size, zoom",
    [((512, 1408), (0.909, 1.136)), ((320, 800), (0.94, 1.25)), ((640, 1600), (0.94, 1.25))],
)
def test_real_corners_stay_on_their_pixels_under_random_augmentation(
    tmp_path: Path, size: tuple[int, int], zoom: tuple[float, float]
) -> None:
    config = NuScenesConfig(
        root=REAL, version="v1.0-mini", training_split="mini_train", index_dir=tmp_path,
        evaluation_split="mini_train", image_size=size, framing=ResizeCropFlip(zoom=zoom),
        size_divisor=32, augmentations=(WorldRotation(), WorldScale()),
    )  # fmt: skip
    plain = NuScenesConfig(
        root=REAL, version="v1.0-mini", evaluation_split="mini_train", index_dir=tmp_path,
        framing=NativeSize(),
    )  # fmt: skip
    before, depth = corners(plain.evaluation_set()[0])
    dataset: NuScenesDataset = config.training_set(seed=7)
    seen = (depth > 1) & (before > 0).all(-1) & (before < torch.tensor([1600, 900])).all(-1)
    assert seen.sum() > 200
    for epoch in range(8):
        dataset.set_epoch(epoch)
        after, _ = corners(dataset[0])
        generator = torch.Generator().manual_seed(item_seed(7, epoch, 0))
        window = config.framing.window((900, 1600), size, config.framing.draw(generator))
        assert (after - mapped(before, (900, 1600), window))[seen].abs().max() < 1e-2


@pytest.mark.real
@needs_real
def test_a_mirrored_world_keeps_real_corners_on_mirrored_pixels(tmp_path: Path) -> None:
    plain = NuScenesConfig(
        root=REAL, version="v1.0-mini", evaluation_split="mini_train", index_dir=tmp_path,
        framing=NativeSize(),
    )  # fmt: skip
    scene = plain.evaluation_set()[0]
    before, depth = corners(scene)
    generator = torch.Generator().manual_seed(0)
    after = WorldFlip(1.0)(scene, generator)
    for change in (GridMask(1.0), PhotometricDistortion()):
        after = change(after, generator)
    mirrored, _ = corners(after)
    seen = (depth > 1) & (before > 0).all(-1) & (before < torch.tensor([1600, 900])).all(-1)
    swapped = mirrored.unflatten(1, (-1, 8))[:, :, [1, 0, 3, 2, 5, 4, 7, 6]].flatten(1, 2)
    expected = torch.stack([1600 - before[..., 0], before[..., 1]], dim=-1)
    assert (swapped - expected)[seen].abs().max() < 1e-2
