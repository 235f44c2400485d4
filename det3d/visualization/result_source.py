"""Result files as a source of pictures: no dataset is needed, only the images they name."""

from __future__ import annotations

import torch

from det3d.cameras import CameraRig
from det3d.data.framing import Window, frame_image
from det3d.evaluation.nuscenes import to_detections
from det3d.results.format import Camera, Frame, Results
from det3d.results.points import read_points
from det3d.structures import SceneBatch
from det3d.visualization.contents import Contents
from det3d.visualization.nuscenes import channel_words
from detr2d.data.image_files import read_image_of_size
from detr2d.data.paths import below
from detr2d.structures import Targets


class ResultSource:
    """The frames of a result file with detections of at least ``score``.

    Cameras that a frame lacks are not present in it; images of different sizes are padded.
    ``names`` chooses cameras and their order, by default all in order of appearance.
    """

    def __init__(
        self,
        results: Results,
        *,
        score: float,
        with_lidar: bool,
        names: tuple[str, ...] | None = None,
    ) -> None:
        self.results = results
        self.score = score
        self.with_lidar = with_lidar
        cameras = [camera for frame in results.frames for camera in frame.cameras]
        self.names = names or tuple(dict.fromkeys(camera.name for camera in cameras))
        self.size = (max(c.height for c in cameras), max(c.width for c in cameras))

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names as words."""
        return tuple(map(channel_words, self.names))

    def __len__(self) -> int:
        return len(self.results.frames)

    def token(self, item: int) -> str:
        """The token of a frame."""
        return self.results.frames[item].token

    def scene_name(self, item: int) -> str:
        """The scene of a frame."""
        return self.results.frames[item].scene or "scene"

    def look(self, item: int) -> tuple[SceneBatch, Contents]:
        """One frame and everything there is to draw over it."""
        frame = self.results.frames[item]
        found, truth = frame.detections, frame.ground_truth
        detections = None if found is None else to_detections(found)
        if detections is not None:
            detections = detections.select(detections.scores >= self.score)
        targets = None
        if truth is not None:
            targets = Targets(torch.tensor(truth.labels), torch.tensor(truth.boxes).float())
        return self.scene(frame), Contents(
            class_names=self.results.names,
            ground_truth=targets,
            detections=detections,
            lidar=self.lidar(frame) if self.with_lidar else None,
        )

    def scene(self, frame: Frame) -> SceneBatch:
        """Images and rig of a frame, cameras in the order of ``camera_names``."""
        cameras = {camera.name: camera for camera in frame.cameras}
        lead = (1, len(self.names))
        images = torch.zeros(*lead, 3, *self.size, dtype=torch.uint8)
        intrinsics = torch.eye(3).expand(*lead, 3, 3).clone()
        poses = torch.eye(4).expand(*lead, 4, 4).clone()
        sizes = torch.tensor(self.size).float().expand(*lead, 2).clone()
        for view, name in enumerate(self.names):
            camera = cameras.get(name)
            if camera is not None:
                images[0, view, :, : camera.height, : camera.width] = self.image(frame, camera)
                intrinsics[0, view] = torch.tensor(camera.intrinsics)
                poses[0, view] = torch.tensor(camera.camera_from_ref)
                sizes[0, view] = torch.tensor([camera.height, camera.width])
        present = torch.tensor([[name in cameras for name in self.names]])
        times = torch.full(lead, frame.time, dtype=torch.float64)
        rig = CameraRig(intrinsics, poses, sizes, present, times)
        return SceneBatch(images, rig, (frame.token,))

    def image(self, frame: Frame, camera: Camera) -> torch.Tensor:
        """The image (3, height, width) of a camera."""
        where = f"frame {frame.token}, camera {camera.name}"
        path = below(self.results.image_root, camera.image, where)
        size = (camera.height, camera.width)
        image = read_image_of_size(path, size, where, "the file says")
        return frame_image(image, Window(size, (0, 0), size))

    def lidar(self, frame: Frame) -> torch.Tensor | None:
        """Points (N, columns) of a frame, if it has any."""
        if frame.lidar is None:
            return None
        where = f"frame {frame.token}"
        path = below(self.results.image_root, frame.lidar, where)
        return torch.from_numpy(read_points(path, frame.lidar_columns, where))
