import json
import pickle
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from det3d.data import nuscenes_index
from det3d.data.nuscenes_index import ARRAYS, NuScenesIndex, open_index
from det3d.data.nuscenes_tables import velocities
from tests.helpers.tiny_nuscenes import token, write_tiny_nuscenes

VERSION = "v1.0-mini"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_nuscenes(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def index(root: Path, tmp_path: Path) -> NuScenesIndex:
    return open_index(root, VERSION, tmp_path / "index")


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("the tables were read again")


def edit_table(root: Path, name: str, rows: list) -> None:
    (root / VERSION / f"{name}.json").write_text(json.dumps(rows))


def read_rows(root: Path, name: str) -> list:
    return json.loads((root / VERSION / f"{name}.json").read_text())


def test_samples_are_ordered_by_scene_then_time(index: NuScenesIndex) -> None:
    assert index.sample_scenes.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert [index.row(token("sample", "scene-0061", i)) for i in range(3)] == [0, 1, 2]
    assert (np.diff(index.sample_times[:3]) > 0).all()


def test_a_second_open_reads_no_table(
    root: Path, index: NuScenesIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("det3d.data.nuscenes_tables.read_table", refuse)
    again = open_index(root, VERSION, tmp_path / "index")
    assert again.directory == index.directory
    assert isinstance(again.object_boxes, np.memmap)
    np.testing.assert_array_equal(again.object_boxes, index.object_boxes)


def test_changed_tables_make_a_new_index_and_remove_the_old(tmp_path: Path) -> None:
    root = write_tiny_nuscenes(tmp_path / "db", scenes={"scene-0061": 2})
    old = open_index(root, VERSION, tmp_path / "index")
    points = int(old.object_points[0])
    rows = read_rows(root, "sample_annotation")
    edit_table(root, "sample_annotation", [row | {"num_lidar_pts": 77} for row in rows])
    new = open_index(root, VERSION, tmp_path / "index")
    assert int(new.object_points[0]) == 77 != points
    assert [path.name for path in (tmp_path / "index").iterdir()] == [new.directory.name]


def test_two_databases_keep_their_indices_side_by_side(root: Path, tmp_path: Path) -> None:
    other = write_tiny_nuscenes(tmp_path / "other", scenes={"scene-0061": 1})
    indices = [open_index(place, VERSION, tmp_path / "index") for place in (root, other, root)]
    assert [len(index) for index in indices] == [7, 1, 7]
    assert len(list((tmp_path / "index").iterdir())) == 2


def test_an_interrupted_build_leaves_no_index(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []

    def fail_on_the_third(path: Path, array: np.ndarray) -> None:
        saved.append(path)
        if len(saved) == 3:
            raise OSError("disk full")
        np.lib.format.write_array(path.open("wb"), array)

    with monkeypatch.context() as patch:
        patch.setattr(nuscenes_index.np, "save", fail_on_the_third)
        with pytest.raises(OSError, match="disk full"):
            open_index(root, VERSION, tmp_path / "index")
    assert not list((tmp_path / "index").glob(f"{VERSION}-*"))
    assert len(open_index(root, VERSION, tmp_path / "index")) == 7
    assert len(list((tmp_path / "index").iterdir())) == 1


def test_a_process_that_finishes_second_uses_the_index_of_the_first(
    index: NuScenesIndex,
) -> None:
    arrays = {name: np.asarray(getattr(index, name)) for name in ARRAYS}
    meta = json.loads((index.directory / "meta.json").read_text())
    nuscenes_index.write_index(index.directory, arrays, meta)
    assert [path.name for path in index.directory.parent.iterdir()] == [index.directory.name]


def test_pickling_for_a_worker_carries_the_place_and_not_the_arrays(index: NuScenesIndex) -> None:
    content = pickle.dumps(index)
    assert len(content) < 1000
    copy = pickle.loads(content)
    assert isinstance(copy.camera_from_ref, np.memmap)
    np.testing.assert_array_equal(copy.camera_from_ref, index.camera_from_ref)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("mini_train", [0, 1, 2, 3, 4]),
        ("mini_val", [5, 6]),
        ("scene-0553", [3, 4]),
        (("scene-0103", "scene-0061"), [0, 1, 2, 5, 6]),
        (("mini_val", "scene-0553"), [3, 4, 5, 6]),
    ],
)
def test_rows_of_splits_and_scenes(
    index: NuScenesIndex, selection: str | tuple[str, ...], expected: list[int]
) -> None:
    assert index.rows(selection).tolist() == expected


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("mini_trian", "'mini_trian' is neither.*did you mean mini_train.*mini_train, mini_val"),
        ("scene-061", "did you mean scene-0061"),
        ("train", "'train' is neither a split of v1.0-mini"),
        (("mini_val", "nowhere"), "'nowhere' is neither"),
    ],
)
def test_an_unknown_split_names_the_nearest(
    index: NuScenesIndex, selection: str | tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        index.rows(selection)


def test_a_split_without_scenes_says_which_have_some(tmp_path: Path) -> None:
    root = write_tiny_nuscenes(tmp_path / "db", scenes={"scene-0061": 1})
    index = open_index(root, VERSION, tmp_path / "index")
    with pytest.raises(ValueError, match=r"'mini_val' has no scene.*mini_train"):
        index.rows("mini_val")


def test_custom_splits_beside_the_tables_are_known(tmp_path: Path) -> None:
    root = write_tiny_nuscenes(tmp_path / "db")
    (root / VERSION / "splits.json").write_text('{"mine": ["scene-0103", "scene-0061"]}')
    assert open_index(root, VERSION, tmp_path / "index").rows("mine").tolist() == [0, 1, 2, 5, 6]


def test_an_unknown_token_is_named(index: NuScenesIndex) -> None:
    with pytest.raises(KeyError, match=r"no sample 'abc' in v1\.0-mini"):
        index.row("abc")


def test_missing_places_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing: the folder does not exist"):
        open_index(tmp_path / "nothing", VERSION, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no version 'v1\.0-trainval'; found: v1\.0-mini"):
        open_index(root, "v1.0-trainval", tmp_path)


@pytest.mark.parametrize(
    ("table", "content", "error", "message"),
    [
        ("instance", None, FileNotFoundError, "lacks the tables instance.json"),
        ("sample", "[{", ValueError, "sample.json is not valid JSON"),
        ("scene", '[{"token": "x"}]', ValueError, "scene.json has a row without the key 'name'"),
        ("scene", "[]", ValueError, "table scene has no row .* which sample .* refers to"),
        ("ego_pose", "[]", ValueError, "table ego_pose has no row"),
        ("sample_data", "[]", ValueError, "has no LIDAR_TOP key frame"),
        ("instance", "[]", ValueError, "table instance has no row .* sample_annotation"),
        ("sample", "{}", ValueError, "sample.json has a row without the key"),
        ("sample", "[5]", ValueError, "sample.json is no table: expected a list of rows"),
        ("sample", "[" * 9000, ValueError, "sample.json is not valid JSON"),
        ("category", '[{"token": [], "name": "x"}]', ValueError, "category.json: token must be a"),
        ("sensor", '[{"token": 5}]', ValueError, "sensor.json: token must be a text, got 5"),
    ],
)
def test_broken_tables_are_named(
    tmp_path: Path, table: str, content: str | None, error: type[Exception], message: str
) -> None:
    root = write_tiny_nuscenes(tmp_path / "db", scenes={"scene-0061": 1})
    path = root / VERSION / f"{table}.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(error, match=message):
        open_index(root, VERSION, tmp_path / "index")


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        ("sample", {"timestamp": "x"}, "sample.json: timestamp must be an integer, got x"),
        ("sample", {"timestamp": 2**70}, "sample.json: timestamp must be an integer"),
        ("ego_pose", {"rotation": [1, 0, 0]}, "ego_pose.json: rotation must be 4 finite numbers"),
        ("sample_annotation", {"size": None}, "size must be 3 finite numbers, got None"),
        ("sample_annotation", {"num_lidar_pts": None}, "num_lidar_pts must be an integer"),
        ("sample_annotation", {"instance_token": []}, "sample_annotation.json has a malformed row"),
        ("sample_data", {"height": -5}, "height and width must be pixels"),
    ],
)
def test_malformed_rows_are_named(
    tmp_path: Path, table: str, changes: dict[str, object], message: str
) -> None:
    root = write_tiny_nuscenes(tmp_path / "db", scenes={"scene-0061": 1})
    path = root / VERSION / f"{table}.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{**rows[0], **changes}, *rows[1:]]))
    with pytest.raises(ValueError, match=message):
        open_index(root, VERSION, tmp_path / "index")


def test_a_sample_that_stands_twice_is_refused(tmp_path: Path) -> None:
    root = write_tiny_nuscenes(tmp_path / "db", scenes={"scene-0061": 1})
    path = root / VERSION / "sample.json"
    path.write_text(json.dumps(2 * json.loads(path.read_text())))
    with pytest.raises(ValueError, match=r"sample\.json has a token that stands twice"):
        open_index(root, VERSION, tmp_path / "index")


def test_a_database_without_annotations_opens(tmp_path: Path) -> None:
    root = write_tiny_nuscenes(tmp_path / "db", scenes={"scene-0061": 2})
    edit_table(root, "sample_annotation", [])
    edit_table(root, "instance", [])
    index = open_index(root, VERSION, tmp_path / "index")
    assert index.object_boxes.shape == (0, 9)
    assert index.object_starts.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("seconds", "neighbours", "expected"),
    [
        ([0.0], ([-1], [-1]), [[np.nan, np.nan]]),  # alone
        ([0.0, 0.5], ([-1, 0], [1, -1]), [[2, 4], [2, 4]]),  # one side each
        ([0.0, 1.5], ([-1, 0], [1, -1]), [[2 / 3, 4 / 3], [2 / 3, 4 / 3]]),  # at the limit
        ([0.0, 1.6], ([-1, 0], [1, -1]), [[np.nan, np.nan], [np.nan, np.nan]]),
        # The middle one may span twice the gap: 2.9 s is fine there, 1.6 s is not on one side.
        (
            [0.0, 1.3, 2.9],
            ([-1, 0, 1], [1, 2, -1]),
            [[1 / 1.3, 2 / 1.3], [2 / 2.9, 4 / 2.9], [np.nan, np.nan]],
        ),
    ],
)
def test_velocities_by_hand(
    seconds: list[float], neighbours: tuple[list[int], list[int]], expected: list[list[float]]
) -> None:
    count = len(seconds)
    centres = np.arange(count)[:, None] * [1.0, 2.0]
    times = (1e6 * np.array(seconds)).astype(np.int64)
    before, after = (np.array(rows) for rows in neighbours)
    found = velocities(centres, times, before, after)
    np.testing.assert_allclose(found, expected)


def write_large_tables(folder: Path, samples: int, objects: int, sweeps: int) -> None:
    """Tables with the row counts of a database and plausible row lengths, streamed to disk."""
    folder.mkdir(parents=True)
    channels = ("LIDAR_TOP", *(f"CAM_{i}" for i in range(6)), *(f"RADAR_{i}" for i in range(5)))
    pose = {"translation": [411.3039349319818, 1180.8903791765097, 0.5], "rotation": [1, 0, 0, 0]}
    matrix = [[1266.417203046554, 0.0, 816.2], [0.0, 1266.417203046554, 491.5], [0.0, 0.0, 1.0]]

    def write(name: str, rows: Iterable[dict]) -> None:
        with (folder / f"{name}.json").open("w") as file:
            file.write("[")
            for i, row in enumerate(rows):
                file.write((",\n" if i else "") + json.dumps(row))
            file.write("]")

    def data(sample: int, sweep: int, channel: int) -> dict:
        own, name = f"{sample:016x}{sweep:08x}{channel:08x}", channels[channel]
        kind = "camera" if "CAM" in name else "lidar" if "LIDAR" in name else "radar"
        return {
            "token": own,
            "sample_token": f"{sample:032x}",
            "ego_pose_token": own,
            "calibrated_sensor_token": f"{channel:032x}",
            "timestamp": 1532402927637525 + 500000 * sample,
            "fileformat": "jpg" if kind == "camera" else "pcd",
            "is_key_frame": sweep == 0,
            "height": 900 if kind == "camera" else 0,
            "width": 1600 if kind == "camera" else 0,
            "filename": f"samples/{name}/n015-2018-07-24-11-22-45+0800__{name}__{own}.jpg",
            "prev": own,
            "next": own,
        }

    files = [(s, w, c) for s in range(samples) for w in range(sweeps) for c in range(12)]

    per_sample = objects // samples
    write("category", [{"token": "c", "name": "vehicle.car"}])
    write("scene", [{"token": "scene", "name": "scene-0061"}])
    write("sensor", [{"token": c, "channel": c, "modality": sensor_kind(c)} for c in channels])
    write(
        "calibrated_sensor",
        [
            pose | {"token": f"{i:032x}", "sensor_token": c, "camera_intrinsic": matrix}
            for i, c in enumerate(channels)
        ],
    )
    write(
        "sample",
        (
            {"token": f"{s:032x}", "timestamp": 500000 * s, "scene_token": "scene"}
            for s in range(samples)
        ),
    )
    write("sample_data", (data(*file) for file in files))
    write("ego_pose", (pose | {"token": data(*file)["token"], "timestamp": 0} for file in files))
    write("instance", ({"token": f"{i:032x}", "category_token": "c"} for i in range(per_sample)))
    write(
        "sample_annotation",
        (
            pose
            | {
                "token": f"{s:016x}{i:016x}",
                "sample_token": f"{s:032x}",
                "instance_token": f"{i:032x}",
                "visibility_token": "4",
                "attribute_tokens": ["cb5118da1ab342aa947717dc53544259"],
                "size": [1.871, 4.478, 1.456],
                "prev": f"{s - 1:016x}{i:016x}" if s else "",
                "next": f"{s + 1:016x}{i:016x}" if s + 1 < samples else "",
                "num_lidar_pts": 12,
                "num_radar_pts": 1,
            }
            for s in range(samples)
            for i in range(per_sample)
        ),
    )


def sensor_kind(channel: str) -> str:
    return "camera" if channel.startswith("CAM") else "lidar"


@pytest.mark.slow
def test_a_second_start_over_large_tables_takes_less_than_two_seconds(tmp_path: Path) -> None:
    # A quarter of trainval: 34 149 samples, 1.17 M annotations, 2.6 M sample_data.
    write_large_tables(tmp_path / "db" / VERSION, samples=8537, objects=291_500, sweeps=6)
    start = time.perf_counter()
    index = open_index(tmp_path / "db", VERSION, tmp_path / "index")
    first = time.perf_counter() - start
    assert len(index) == 8537 and len(index.object_labels) == 34 * 8537
    start = time.perf_counter()
    index = open_index(tmp_path / "db", VERSION, tmp_path / "index")
    rows = index.rows("mini_train")
    np.asarray(index.camera_from_ref[rows[-1]])
    second = time.perf_counter() - start
    print(f"first start {first:.1f} s, second {second:.3f} s")
    assert second < 0.5  # four times the tables stay below 2 s
