from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from detr2d.structures import (
    Batch,
    Detections,
    FeaturePyramid,
    ImageBatch,
    Predictions,
    Segments,
    Targets,
    check_shape,
    concatenate_images,
    map_tensors,
    pad_stack,
    stack_images,
)


@dataclass(frozen=True)
class Nested(Batch):
    targets: tuple[Targets, ...]
    maps: list[torch.Tensor]
    name: str
    nothing: None = None


def targets(count: int) -> Targets:
    return Targets(torch.arange(count), torch.rand(count, 9))


def test_check_shape_accepts_letters_that_agree_and_literal_numbers() -> None:
    sizes: dict[str, int] = {}
    check_shape("a", torch.zeros(2, 5, 3), "B V 3", sizes)
    check_shape("b", torch.zeros(2, 5), "B V", sizes)
    assert sizes == {"B": 2, "V": 5}


@pytest.mark.parametrize(
    "shape, letters",
    [((3, 4), "B V"), ((2,), "B V"), ((2, 5, 4), "B V 3"), ((2, 5, 3, 1), "B V 3")],
    ids=["letter differs", "rank too low", "literal differs", "rank too high"],
)
def test_check_shape_names_the_tensor_and_both_shapes(shape: tuple[int, ...], letters: str) -> None:
    with pytest.raises(ValueError, match="points must have shape") as error:
        check_shape("points", torch.zeros(shape), letters, {"B": 2, "V": 5})
    assert letters in str(error.value)
    assert str(tuple(shape)) in str(error.value)


def test_map_tensors_reaches_nested_values_and_leaves_the_rest() -> None:
    value = Nested((targets(2), targets(0)), [torch.ones(3)], "kept")
    doubled = map_tensors(value, lambda tensor: tensor * 2)
    assert torch.equal(doubled.targets[0].boxes, value.targets[0].boxes * 2)
    assert torch.equal(doubled.maps[0], torch.full((3,), 2.0))
    assert (doubled.name, doubled.nothing, len(doubled.targets)) == ("kept", None, 2)


def test_to_moves_every_tensor() -> None:
    value = Nested((targets(2),), [torch.ones(3)], "kept").to("meta")
    assert value.targets[0].labels.device.type == "meta"
    assert value.maps[0].device.type == "meta"


@pytest.mark.parametrize("count", [0, 1, 7])
def test_targets_count_their_objects(count: int) -> None:
    assert len(targets(count)) == count


def test_targets_refuse_labels_and_boxes_of_unequal_length() -> None:
    with pytest.raises(ValueError, match=r"boxes must have shape \(T D\) with T=2"):
        Targets(torch.arange(2), torch.rand(3, 9))


def test_predictions_refuse_codes_of_other_queries() -> None:
    with pytest.raises(ValueError, match="codes must have shape"):
        Predictions(torch.zeros(2, 1, 5, 10), torch.zeros(2, 1, 4, 10))


def test_detections_select_by_mask_and_by_index() -> None:
    found = Detections(
        scores=torch.tensor([0.9, 0.5, 0.1]),
        labels=torch.tensor([3, 1, 2]),
        boxes=torch.arange(27.0).view(3, 9),
        queries=torch.tensor([8, 4, 6]),
    )
    assert found.select(found.scores > 0.3).labels.tolist() == [3, 1]
    assert found.select(torch.tensor([2, 0])).queries.tolist() == [6, 8]
    assert len(found.select(torch.zeros(3, dtype=torch.bool))) == 0


def test_selecting_takes_masks_along_and_leaves_the_segmentation_whole() -> None:
    found = Detections(
        scores=torch.tensor([0.9, 0.5]),
        labels=torch.tensor([3, 1]),
        boxes=torch.rand(2, 4),
        queries=torch.tensor([8, 4]),
        masks=torch.tensor([[[True, False]], [[False, True]]]),
        segments=Segments(torch.zeros(1, 2).long(), torch.tensor([3]), torch.tensor([0.9])),
    )
    kept = found.select(found.scores < 0.6)
    assert kept.masks is not None and kept.masks.tolist() == [[[False, True]]]
    assert kept.segments is found.segments and len(found.segments) == 1


def test_feature_pyramid_iterates_finest_first() -> None:
    pyramid = FeaturePyramid((torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4)))
    assert [level.shape[-1] for level in pyramid] == [8, 4]
    assert len(pyramid) == 2


def test_pad_stack_keeps_values_at_the_start_and_fills_the_ends() -> None:
    stacked = pad_stack([torch.ones(2, 1), torch.full((1, 3), 5.0)], fill=-1)
    expected = [[[1, -1, -1], [1, -1, -1]], [[5, 5, 5], [-1, -1, -1]]]
    assert stacked.tolist() == expected


def test_stacked_images_are_padded_and_keep_the_channels_of_a_pixel_together() -> None:
    images = [torch.rand(3, 4, 6), torch.rand(3, 5, 2)]
    stacked = stack_images(images, divisor=4)
    assert torch.equal(stacked[..., :5, :6], pad_stack(images))
    assert stacked.shape == (2, 3, 8, 8) and not stacked[..., 5:, :].any()
    assert stacked.is_contiguous(memory_format=torch.channels_last)
    views = stack_images([stacked, stacked[:1]])
    assert views.shape == (2, 2, 3, 8, 8) and torch.equal(views[:, 0], stacked[[0, 0]])
    assert not views[1, 1].any() and views.stride()[2:] == (1, 24, 3)


def test_a_single_image_that_fits_is_not_copied() -> None:
    image = torch.rand(3, 4, 6)
    assert stack_images([image]).data_ptr() == image.data_ptr()


def test_pad_stack_keeps_the_type() -> None:
    assert pad_stack([torch.zeros(2, dtype=torch.uint8)]).dtype == torch.uint8


def image_batch(height: int, width: int, token: str, *, annotated: bool = True) -> ImageBatch:
    found = Targets(
        torch.zeros(1, dtype=torch.long), torch.rand(1, 4), torch.ones(1, height, width)
    )
    return ImageBatch(
        images=torch.full((1, 3, height, width), 7, dtype=torch.uint8),
        image_sizes=torch.tensor([[height, width]], dtype=torch.float32),
        tokens=(token,),
        original_sizes=torch.tensor([[480.0, 640.0]]),
        targets=(found,) if annotated else None,
    )


def test_joined_images_share_a_canvas_and_mark_what_is_padding() -> None:
    joined = concatenate_images([image_batch(2, 5, "7"), image_batch(4, 3, "x")])
    assert joined.images.shape == (2, 3, 4, 5) and joined.images.dtype == torch.uint8
    assert (joined.tokens, len(joined)) == (("7", "x"), 2)
    assert torch.equal(joined.padding, joined.images[:, 0] == 0)
    assert joined.targets is not None
    assert [t.masks.shape for t in joined.targets if t.masks is not None] == [(1, 2, 5), (1, 4, 3)]


def test_images_with_and_without_targets_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="with targets"):
        concatenate_images([image_batch(2, 2, "a"), image_batch(2, 2, "b", annotated=False)])


@pytest.mark.parametrize("change", ["tokens", "targets", "image_sizes"])
def test_an_image_batch_refuses_what_is_not_one_per_image(change: str) -> None:
    values = {"tokens": (), "targets": (), "image_sizes": torch.zeros(2, 2)}
    with pytest.raises(ValueError, match=change.split("_")[-1]):
        replace(image_batch(2, 2, "a"), **{change: values[change]})


def test_targets_refuse_masks_of_other_objects() -> None:
    with pytest.raises(ValueError, match=r"masks must have shape \(T H W\) with T=2"):
        Targets(torch.arange(2), torch.rand(2, 4), torch.ones(3, 8, 8))
