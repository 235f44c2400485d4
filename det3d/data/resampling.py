"""Class-balanced grouping and sampling: rare classes are seen as often as common ones."""

from __future__ import annotations

import numpy as np

from det3d.data.nuscenes_index import DETECTION_CLASSES, NuScenesIndex


def balanced_rows(index: NuScenesIndex, rows: np.ndarray, seed: int) -> np.ndarray:
    """Rows with repetitions, so that every class is drawn for equally often (CBGS).

    Zhu et al., 2019, section 3.1: samples are grouped by the classes that they show (with lidar or
    radar points); each class draws, from its own group, one tenth of all group entries. Classes
    that nobody shows are left out. The result depends on ``seed`` only.
    """
    groups: list[list[int]] = [[] for _ in DETECTION_CLASSES]
    for row in rows:
        start, stop = index.object_starts[row : row + 2]
        seen = index.object_points[start:stop] > 0
        for label in np.unique(index.object_labels[start:stop][seen]):
            groups[int(label)].append(int(row))
    share = sum(len(group) for group in groups) / len(DETECTION_CLASSES)
    generator = np.random.default_rng(seed)
    drawn = [generator.choice(group, size=max(1, int(share))) for group in groups if group]
    if not drawn:
        raise ValueError("class-balanced training needs objects, the chosen samples show none")
    return np.concatenate(drawn)
