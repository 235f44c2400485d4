"""Pictures over time as a file that browsers play."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
import numpy as np


def write_video(frames: Iterable[np.ndarray], path: Path, fps: float) -> int:
    """Write RGB frames (H, W, 3) uint8 as MP4 (H.264, yuv420p); returns how many.

    Frames are taken one at a time. Raises ValueError if there are none, if their sizes differ or
    if a side is odd, which H.264 with yuv420p cannot hold.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"no frames to write to {path}")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"frames of a video need even sides, got {height} x {width} for {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=fps,
        codec="libx264",
        pix_fmt_in="rgb24",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        ffmpeg_log_level="fatal",  # it warns of videos with a single frame
        output_params=["-crf", "20", "-preset", "medium", "-movflags", "+faststart"],
    )
    writer.send(None)
    count = 0
    try:
        frame: np.ndarray | None = first
        while frame is not None:
            if frame.shape != first.shape:
                raise ValueError(f"frame {count} of {path} is {frame.shape}, not {first.shape}")
            writer.send(np.ascontiguousarray(frame))
            count += 1
            frame = next(iterator, None)
    finally:
        writer.close()
    return count
