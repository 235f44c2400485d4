"""File names that come out of data files, held below the folder that they belong to."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath


def below(folder: Path, name: object, where: str) -> Path:
    """``folder / name`` for a name that a data file gives.

    The name must be relative and without ``..``, so that no annotation file can make a tool read
    what lies elsewhere; links inside ``folder`` are followed, they are the user's own. Raises
    ValueError that starts with ``where``.
    """
    if not is_below(name):
        raise ValueError(
            f"{where}: file name {str(name)[:200]!r} is refused: "
            f"expected a relative name without .. that lies below {folder}"
        )
    return folder / str(name)


def is_below(name: object) -> bool:
    """Whether a name is a text that cannot leave the folder that it is joined to."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        return False
    kinds = (PurePosixPath(name), PureWindowsPath(name))
    return not any(path.is_absolute() or path.drive or ".." in path.parts for path in kinds)
