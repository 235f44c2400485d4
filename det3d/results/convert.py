"""Files in one format to files in the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from det3d.data.nuscenes_index import open_index
from det3d.results.format import is_results, read_results, write_results
from det3d.results.nuscenes import (
    database_results,
    read_submission,
    submission,
    write_submission,
)


def convert(
    source: Path | None,
    target: Path,
    *,
    root: Path | None,
    version: str,
    select: str | None,
    index_dir: Path,
) -> int:
    """Convert a result file to a submission, else a submission or a database to a result file.

    ``select`` names a split or a scene of the database ``root``. Returns the number of frames.
    Raises ValueError or FileNotFoundError saying what is wrong.
    """
    if source is not None and not source.is_file():
        raise FileNotFoundError(f"result file {source} is missing")
    if source is not None and is_results(source):
        boxes = submission(read_results(source))
        write_submission(target, boxes)
        return len(boxes)
    if root is None:
        what = "its submission belongs to" if source is None else f"{source} belongs to"
        raise ValueError(f"--root is missing: expected the nuScenes-format database that {what}")
    index = open_index(root, version, index_dir)
    found = None if source is None else read_submission(source)
    rows = np.arange(len(index)) if select is None else index.rows(select)
    if found is not None:
        rows = np.array([row for row in rows if str(index.sample_tokens[row], "utf-8") in found])
    if not len(rows):
        raise ValueError(f"{source} has no sample of {version} in {root}")
    words = f"{version}, {'ground truth' if source is None else source.name}"
    results = database_results(index, root, rows.tolist(), found, source=words)
    write_results(target, results)
    return len(results.frames)
