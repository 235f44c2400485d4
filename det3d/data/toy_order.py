"""Who hides whom: paint orders from planes that separate things, exact for disjoint boxes.

If a plane separates two things, the one on the far side from the eye cannot hide the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from det3d.data.toy_mesh import paint_ranks

Array = NDArray[np.float64]
TOUCH = 1e-3  # metres that separated things may reach into each other


def rank_items(corners: Array, axes: Array, half: Array, heights: Array, eye: Array,
               related: NDArray[np.bool_]) -> NDArray[np.int64]:  # fmt: skip
    """Paint ranks (I,) of things with rectangular footprints, far ones first.

    corners (I, 4, 2), axes (I, 2, 2), half (I, 2) as from ``footprints``; heights (I, 2): lowest
    and highest z; eye (3,); related (I, I): pairs that may overlap in the picture.
    """
    centres = corners.mean(1)
    # Corners of i in the frame of j: (I, J, 4, 2).
    offset = corners[:, None] - centres[None, :, None]
    local = np.einsum("ijcx,jax->ijca", offset, axes)
    lowest, highest = local.min(2), local.max(2)  # (I, J, 2)
    eye_local = np.einsum("jx,jax->ja", eye[:2] - centres, axes)  # (J, 2)
    ahead = lowest >= half - TOUCH  # i beyond the face of j on the positive side
    behind = highest <= -half + TOUCH
    eye_ahead, eye_behind = eye_local > half, eye_local < -half
    i_first = (ahead & ~eye_ahead) | (behind & ~eye_behind)
    j_first = (ahead & eye_ahead) | (behind & eye_behind)
    above = heights[:, None, 0] >= heights[None, :, 1] - TOUCH
    eye_above = eye[2] > heights[None, :, 1]
    before = i_first.any(-1) | (above & ~eye_above)
    after = j_first.any(-1) | (above & eye_above)
    before, after = before | after.T, after | before.T
    return paint_ranks(before & ~after & related)


def rank_solids(lower: Array, upper: Array, eyes: Array) -> NDArray[np.int64]:
    """Paint ranks (I, P) of the solids inside each item.

    lower, upper (I, P, 3): bounds in the item's frame, NaN where an item has fewer solids;
    eyes (I, 3): the eye in each item's frame.
    """
    eye = eyes[:, None, None]
    ahead = lower[:, :, None] >= upper[:, None] - TOUCH  # (I, i, j, axis): i beyond j
    eye_ahead = eye > upper[:, None]
    before = (ahead & ~eye_ahead).any(-1)
    after = (ahead & eye_ahead).any(-1)
    before, after = before | after.swapaxes(1, 2), after | before.swapaxes(1, 2)
    # Solids that interlock have no separating plane: the one with the nearer middle comes later.
    middle = np.linalg.norm((lower + upper) / 2 - eyes[:, None], axis=-1)
    farther = middle[:, :, None] > middle[:, None]
    return paint_ranks(np.where(before | after, before & ~after, farther))
