"""What is seen while a command works: on a terminal, in a pipe, quiet and stopped."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from children import run_command, start_command
from terminal import on_terminal

from cr_hf.progress import Phase

DEMO = Path(__file__).resolve().parents[1] / "recipes" / "demo.yaml"
EPOCHS, COLUMNS = 3, 60
TINY = ["data.max_train_samples=60", "data.max_eval_samples=30", f"num_train_epochs={EPOCHS}", "hidden_sizes=[8]"]
TINY += ["use_cpu=true"]
ROW = re.compile(r" +(\d)( +[\d.]+){5}( best)?$", re.MULTILINE)

TinyBackbone = Callable[..., Path]
Train = Callable[..., list[str]]


@pytest.fixture
def train(tiny_backbone: TinyBackbone, tmp_path: Path) -> Train:
    def command(*words: str) -> list[str]:
        folder = tmp_path / "run"
        return ["train", str(DEMO), f"backbone={tiny_backbone('bert')}", f"output_dir={folder}", *TINY, *words]

    return command


def test_a_pipe_gets_plain_lines_one_an_epoch_and_the_answer_apart(train: Train, tmp_path: Path) -> None:
    ended = run_command(train(), tmp_path)
    assert ended.code == 0, ended.errors
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", ended.output + ended.errors)
    rows = [found[1] for found in ROW.finditer(ended.errors)]
    assert rows == ["1", "2", "3"]
    assert ended.errors.count("best") >= 1
    assert "accuracy" in ended.output
    assert not ROW.search(ended.output)
    assert len((ended.output + ended.errors).splitlines()) < 40
    last = ended.output.splitlines()[-1]
    assert str(tmp_path / "run") in last
    quiet = run_command(train("--overwrite", "--quiet"), tmp_path)
    assert "accuracy" in quiet.output
    assert "Rows:" not in quiet.output
    assert not ROW.search(quiet.errors)


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_of_60_columns(environment: dict[str, str], train: Train) -> None:
    code, seen = on_terminal(train(), columns=COLUMNS, environment={"TERM": "xterm-256color", **environment})
    assert code == 0, seen
    is_dumb = environment.get("TERM") == "dumb"
    colors = re.findall(r"\x1b\[[0-9;]*m", seen)
    assert not colors if is_dumb else not environment or not any(re.search(r"\b3[0-7]|38;", one) for one in colors)
    assert ("\x1b[2K" in seen) is not is_dumb, "a live line is written over"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert [found[1] for found in ROW.finditer(text.replace("\r", "\n"))] == ["1", "2", "3"]
    lines = re.split(r"[\r\n]+", text)
    tables = [line for line in lines if re.search(r"\S  +\S", line)]
    assert len(tables) > EPOCHS
    assert max(map(len, tables)) <= COLUMNS
    assert all(any(line.startswith(phase) for line in lines) for phase in ("train", "measure")) is not is_dumb


def test_stopped_by_hand_it_says_where_and_how_to_go_on(train: Train, tmp_path: Path) -> None:
    words = train("num_train_epochs=2000")
    child = start_command(words, tmp_path)
    while not list((tmp_path / "run" / "checkpoints").glob("checkpoint-*")):
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGINT)
    ended = child.wait()
    assert ended.code == 130, ended.errors
    assert "Traceback" not in ended.errors
    last = ended.errors.splitlines()[-1]
    expected = r"stopped at step \d of 2,000; .*checkpoint-\d+ is kept; go on with: cr-hf train .* --resume"
    assert re.fullmatch(expected, last)


def test_a_phase_without_a_terminal_is_a_line_a_minute(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("cr_hf.progress.time.monotonic", lambda: now[0])
    with Phase("encode train", total=1000, unit=" texts") as phase:
        for _ in range(10):
            now[0] += 30
            phase.update(100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "encode train: 300 texts of 1,000, 210 s left"
    assert lines[-1] == "encode train: 1,000 texts in 300 s"
    assert len(lines) == 4


def test_numbers_of_an_epoch_have_four_digits_whatever_their_size() -> None:
    from cr_hf.training.progress import _number  # transformers, for which the other tests need not wait

    shown = [_number(value) for value in (28.2, 7.61014, 0.09521, 1.0, 0.0, 1234.5, 123456.0, None)]
    assert shown == ["28.20", "7.610", "0.09521", "1.000", "0.000", "1234", "1.235e+05", "-"]
