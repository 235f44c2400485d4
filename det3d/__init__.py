"""Multi-camera 3D detection: cameras, metric boxes and nuScenes on the detr2d core."""
