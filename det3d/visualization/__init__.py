"""Pictures of scenes, ground truth and detections: camera mosaic, bird's-eye view, videos."""

from det3d.visualization.birds_eye import draw_birds_eye
from det3d.visualization.cameras import PictureStyle, draw_cameras, draw_lidar_on_cameras
from det3d.visualization.contents import Contents, QueryTrails, query_trails
from det3d.visualization.scene import draw_scene
from det3d.visualization.video import write_video

__all__ = [
    "Contents",
    "PictureStyle",
    "QueryTrails",
    "draw_birds_eye",
    "draw_cameras",
    "draw_lidar_on_cameras",
    "draw_scene",
    "query_trails",
    "write_video",
]
