"""Repeat-factor sampling: images that show rare classes are trained on more often."""

from __future__ import annotations

import numpy as np

from detr2d.data.coco_files import CocoFile


def repeated_rows(file: CocoFile, rows: np.ndarray, threshold: float, seed: int) -> np.ndarray:
    """Rows with repetitions, in the order of ``rows``; the result depends on ``seed`` only.

    An image is there max(1, sqrt(threshold / f)) times, f being the share of ``rows`` that show the
    rarest class in it (Gupta et al., LVIS, CVPR 2019, section 3.2); of a fraction one more copy is
    drawn with that probability. Crowds do not count.
    """
    shown = [_classes(file, row) for row in rows]
    classes, counts = np.unique(np.concatenate([*shown, []]), return_counts=True)
    factor = dict(zip(classes.tolist(), np.sqrt(threshold * len(rows) / counts), strict=True))
    wanted = np.array([max([1.0, *(factor[c] for c in each.tolist())]) for each in shown])
    drawn = np.random.default_rng(seed).random(len(rows))
    return np.repeat(rows, np.floor(wanted + drawn).astype(np.int64))


def _classes(file: CocoFile, row: int) -> np.ndarray:
    """Category ids that an image shows, each once."""
    start, stop = file.starts[row : row + 2]
    return np.unique(file.category_ids[start:stop][~file.crowd[start:stop]])
