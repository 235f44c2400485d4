import numpy as np
import pytest

from det3d.data.toy_shapes import BOX_MARGIN, GROUND_CLEARANCE, ShapeBuilder
from det3d.data.toy_traffic import CATEGORY_OF, DETECTION_CLASSES, make_shape

# Length, width, height of the benchmark's mean boxes, roughly.
MEAN_SIZES = {
    "car": (4.6, 1.95, 1.7), "truck": (6.9, 2.5, 2.8), "construction_vehicle": (6.4, 2.8, 3.2),
    "bus": (11.1, 2.9, 3.5), "trailer": (12.3, 2.9, 3.9), "barrier": (0.5, 2.5, 1.0),
    "motorcycle": (2.1, 0.8, 1.5), "bicycle": (1.7, 0.6, 1.3), "pedestrian": (0.7, 0.7, 1.8),
    "traffic_cone": (0.4, 0.4, 1.1),
}  # fmt: skip


def shapes_of(name, count=12):
    return [
        make_shape(name, np.random.default_rng(k), rider=k % 2 == 0, walking=True)[1]
        for k in range(count)
    ]


@pytest.mark.parametrize("name", DETECTION_CLASSES)
def test_solids_are_convex_and_face_outwards(name):
    shape = shapes_of(name, 1)[0]
    for face in np.flatnonzero(~shape.details):
        members = shape.faces[(shape.solids == shape.solids[face]) & ~shape.details]
        heights = shape.vertices[np.unique(members)] @ shape.normals[face] - shape.offsets[face]
        assert heights.max() < 0.02  # slightly twisted quads are allowed a bulge of 2 cm
        assert heights.min() < -0.02


@pytest.mark.parametrize("name", DETECTION_CLASSES)
def test_boxes_bound_shapes_tightly_and_stand_on_the_ground(name):
    for shape in shapes_of(name):
        lower, upper = shape.bounds
        np.testing.assert_allclose(lower[:2], -upper[:2], atol=1e-9)
        np.testing.assert_allclose(lower[2], GROUND_CLEARANCE, atol=1e-9)
        np.testing.assert_allclose(shape.box_size, upper - lower + 2 * BOX_MARGIN)


@pytest.mark.parametrize("name", DETECTION_CLASSES)
def test_mean_sizes_are_near_the_benchmarks(name):
    mean = np.mean([shape.box_size for shape in shapes_of(name, 40)], axis=0)
    np.testing.assert_allclose(mean, MEAN_SIZES[name], atol=0.35, rtol=0.2)


def test_no_colour_belongs_to_one_vehicle_class_alone():
    spread = {
        name: np.std([s.colours[0] for s in shapes_of(name, 30)], axis=0).min()
        for name in ("car", "bus", "barrier", "pedestrian")
    }
    assert min(spread.values()) > 0.05


def test_every_detection_class_has_a_category_that_the_devkit_maps_back():
    from nuscenes.eval.detection.utils import category_to_detection_name

    assert [category_to_detection_name(CATEGORY_OF[n]) for n in DETECTION_CLASSES] == list(
        DETECTION_CLASSES
    )


def test_a_box_has_six_outward_faces_with_known_planes():
    shape = ShapeBuilder().box((0, 0, 0), (2, 1, 3), (1, 1, 1)).build(centred=False)
    planes = {(*normal.round(6).tolist(), offset) for normal, offset in
              zip(shape.normals, shape.offsets.round(6), strict=True)}  # fmt: skip
    assert planes == {(1, 0, 0, 2), (-1, 0, 0, 0), (0, 1, 0, 1), (0, -1, 0, 0), (0, 0, 1, 3),
                      (0, 0, -1, 0)}  # fmt: skip
