"""Draw samples: all cameras and the bird's-eye view of a database, or the images of a 2D config.

python tools/visualize.py --root data/nuscenes --version v1.0-mini --count 4
python tools/visualize.py --root data/nuscenes --sample ca9a282c9e77460f8360f564131a8af5 --lidar
python tools/visualize.py --root data/nuscenes --results outputs/run/evaluation/results_nusc.json
python tools/visualize.py --config configs/toy/detr3d.py --checkpoint outputs/toy/model.safetensors
python tools/visualize.py --root data/nuscenes --scene scene-0103 --video
python tools/visualize.py --config configs/detr2d/detr_r50.py --checkpoint detr_r50.safetensors
python tools/visualize.py --config configs/detr2d/detr_r50.py --results evaluation/results_bbox.json
"""

from __future__ import annotations

import tyro

from det3d.visualization.request import PictureRequest, answer
from detr2d.config import one_line_errors


def main() -> None:
    request = tyro.cli(PictureRequest, description=(__doc__ or "").split("\n\n")[0])
    with one_line_errors():
        paths = answer(request)
    print("\n".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
