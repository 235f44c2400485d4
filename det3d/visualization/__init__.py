"""Pictures of scenes, ground truth and detections: camera mosaic, bird's-eye view, videos."""
