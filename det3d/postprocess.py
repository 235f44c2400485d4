"""From predictions of a 3D system to final detections."""

from __future__ import annotations

from det3d.boxes import MetricBox3D
from det3d.geometry import Region
from detr2d.postprocess import top_detections
from detr2d.structures import Detections, Predictions

CENTRES = Region((-61.2, -61.2, -10.0), (61.2, 61.2, 10.0))  # of the released detectors


def scene_detections(
    predictions: Predictions, count: int, centres: Region = CENTRES
) -> list[Detections]:
    """The ``count`` best (query, class) pairs of the last layer whose centre lies in ``centres``.

    The best are chosen first, as in the released code, so fewer may be left.
    """
    best = top_detections(predictions, MetricBox3D(), count)
    return [found.select(centres.contains(found.boxes[:, :3])) for found in best]
