import json
import time
from pathlib import Path

from detr2d.log import RunLog, Window, read_log, restore_window

RECORD = {"loss": 2.0, "lr": 0.1, "data_time": 0.0, "losses": {"x": 1.5}}


def test_a_window_averages_each_value_over_the_steps_that_have_it() -> None:
    window = Window()
    window.add({"x": 1.0, "y": 5.0})
    window.add({"x": 3.0})
    assert window.means() == {"x": 2.0, "y": 5.0}


def test_a_window_goes_on_where_its_state_was_taken() -> None:
    window = Window(data_seconds=2.0)
    window.add({"x": 0.1})
    state = json.loads(json.dumps(window.state()))
    other = restore_window(state)
    assert (other.values, other.data_seconds) == ([{"x": 0.1}], 2.0)
    assert state["seconds"] <= time.perf_counter() - other.started < state["seconds"] + 60


def test_a_log_reads_back_and_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    log = RunLog(tmp_path, first_step=0, num_steps=9, enabled=True)
    log.write({"step": 3, **RECORD})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 3, **RECORD}]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_continued_log_forgets_what_came_after_its_first_step(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, **RECORD}) for step in (2, 4, 6)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    log = RunLog(tmp_path, first_step=4, num_steps=9, enabled=True)
    log.write({"step": 6, **RECORD, "loss": 1.0})
    log.close()
    records = read_log(tmp_path / "log.jsonl")
    assert [(record["step"], record["loss"]) for record in records] == [
        (2, 2.0),
        (4, 2.0),
        (6, 1.0),
    ]


def test_a_silent_log_writes_nothing(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", first_step=0, num_steps=9, enabled=False)
    log.write({"step": 3, **RECORD})
    log.advance()
    log.close()
    assert not (tmp_path / "run").exists()
