"""Run the image network on the cameras that are there."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from det3d.cameras import CameraRig
from detr2d.structures import FeaturePyramid


def encode_cameras(
    images: Tensor, rig: CameraRig, encode: Callable[[Tensor, Tensor], FeaturePyramid]
) -> FeaturePyramid:
    """Features (B * V, C, H_i, W_i) of images (B, V, 3, H, W); zeros where a camera is absent.

    ``encode`` maps images (N, 3, H, W) and their valid sizes (N, 2) to a pyramid. It sees present
    cameras only, so that an absent one changes no statistics and costs no time.
    """
    images = images.flatten(0, 1)
    sizes = rig.image_sizes.flatten(0, 1)
    chosen = rig.present_rows()
    if chosen is None:
        return encode(images, sizes)
    pyramid = encode(images.index_select(0, chosen), sizes.index_select(0, chosen))
    return FeaturePyramid(tuple(_spread(level, chosen, len(images)) for level in pyramid))


def apply_to_present(maps: Tensor, rig: CameraRig, network: Callable[[Tensor], Tensor]) -> Tensor:
    """Maps (B * V, C', H, W) that ``network`` makes of maps (B * V, C, H, W) of present cameras."""
    chosen = rig.present_rows()
    if chosen is None:
        return network(maps)
    return _spread(network(maps.index_select(0, chosen)), chosen, len(maps))


def _spread(level: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Put maps (N, C, h, w) at the ``chosen`` of ``count`` places, zeros elsewhere."""
    channels, height, width = level.shape[1:]
    table = level.new_zeros(count, height, width, channels)
    return table.index_copy(0, chosen, level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
