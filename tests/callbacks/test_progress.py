"""The progress display: what a line holds at each width, and when it is written."""

import io

import pytest

from plm.callbacks.progress import DataProgress, Progress


class Screen(io.StringIO):
    """A stream that says it is a terminal, and what its last line shows."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def lines(self):
        return [line.rsplit("\r", 1)[-1].rstrip() for line in self.getvalue().split("\n")]

    def drawn(self):
        return [text for text in self.getvalue().replace("\n", "\r").split("\r") if text.strip()]


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def _update(progress, tokens, loss=4.3118, phase="stable"):
    progress.update(tokens, loss, 2e-3, phase, 13_100.0)


@pytest.mark.parametrize(
    ("width", "start", "end"),
    [
        (
            140,
            "pretrain stable  43%|",
            "| 1.20M/2.80M tokens  13.1k tok/s  loss 4.312  lr 2.0e-03  2:02 left",
        ),
        (
            90,
            "stable  43%|",
            "| 1.20M/2.80M tokens  13.1k tok/s  loss 4.312  lr 2.0e-03  2:02 left",
        ),
        (80, "stable  43%|", "| 1.20M/2.80M tokens  13.1k tok/s  loss 4.312  2:02 left"),
        (65, "stable  43%|", "| 1.20M/2.80M tokens  loss 4.312  2:02 left"),
        (60, "stable  43%|", "| 1.20M/2.80M  loss 4.312  2:02 left"),
        (45, "stable  43%|", "| 1.20M/2.80M  loss 4.312"),
        (35, "stable  43%|", "| 1.20M/2.80M"),
    ],
)
def test_the_bar_fills_the_width_and_drops_fields(width, start, end):
    screen = Screen()
    progress = Progress(2_800_000, stream=screen, name="pretrain", width=width, clock=Clock())
    _update(progress, 1_200_000)
    progress.close()
    line = screen.lines()[0]
    assert line.startswith(start) and line.endswith(end)
    assert len(line) == width - 1
    assert "█" in line[len(start) : -len(end)]


def test_no_loss_yet_and_no_rate_yet():
    screen = Screen()
    progress = Progress(1000, stream=screen, width=100, clock=Clock())
    progress.update(0, None, 0.0, "stable", 0.0)
    progress.close()
    assert "loss" not in screen.lines()[0] and "left" not in screen.lines()[0]


def test_time_left_follows_the_whole_rate_once_it_is_known():
    screen, clock = Screen(), Clock()
    progress = Progress(2000, start_tokens=1000, stream=screen, width=100, clock=clock)
    clock.now = 60.0
    progress.update(1000, 5.0, 1e-3, "a", 100.0)
    assert "0:10 left" in screen.drawn()[-1]
    clock.now = 80.0
    # 500 tokens in 20 s: 25 a second, whatever the last steps measured.
    progress.update(1500, 5.0, 1e-3, "a", 100.0)
    assert "0:20 left" in screen.drawn()[-1]
    assert "75%" in screen.drawn()[-1]


def test_the_bar_is_redrawn_ten_times_a_second_and_its_end_is_shown():
    screen, clock = Screen(), Clock()
    progress = Progress(100_000, stream=screen, width=80, clock=clock)
    for tokens in range(0, 50_000, 100):
        clock.now += 0.001
        _update(progress, tokens)
    assert 5 <= len(screen.drawn()) <= 8
    progress.close()
    assert "49.9k/100k" in screen.lines()[0]
    assert screen.getvalue().endswith("\n")


def test_a_note_stands_above_the_bar():
    screen = Screen()
    progress = Progress(1000, stream=screen, width=80, clock=Clock())
    _update(progress, 500)
    progress.note("validation 3.9")
    progress.close()
    assert screen.lines()[0] == "validation 3.9"
    assert screen.lines()[1].startswith("stable  50%|")


def test_plain_lines_in_a_log():
    log, clock = io.StringIO(), Clock()
    progress = Progress(100_000, stream=log, name="pretrain", clock=clock)
    for tokens in range(0, 100_001, 100):
        clock.now += 0.05
        _update(progress, tokens, phase="stable" if tokens < 50_000 else "decay")
    progress.note("saved")
    progress.close()
    lines = log.getvalue().splitlines()
    # 50 s: the first, one every 5 % (2.5 s), the change of phase, the last.
    assert 18 <= len(lines) <= 24
    assert lines[0].startswith("pretrain stable    0%  0/100k tokens  13.1k tok/s  loss 4.312")
    assert lines[-2].startswith("pretrain decay  100%  100k/100k tokens")
    assert lines[-1] == "saved"
    assert "\r" not in log.getvalue() and "█" not in log.getvalue()


def test_a_log_of_a_long_run_is_written_by_the_clock():
    log, clock = io.StringIO(), Clock()
    progress = Progress(10**9, stream=log, clock=clock)
    for step in range(1000):
        clock.now = step * 0.1
        _update(progress, step)
    assert len(log.getvalue().splitlines()) == 10
    progress.close()
    assert "999/1.00B" in log.getvalue().splitlines()[-1]


def test_data_stages_in_a_log():
    log, clock = io.StringIO(), Clock()
    progress = DataProgress(stream=log, clock=clock)
    for done in range(0, 2801, 100):
        progress("tokenise", done, 2800)
        clock.now += 0.1
    progress("near duplicates", 5000, None)
    clock.now += 1
    progress("near duplicates", 9000, None)
    progress.close()
    lines = log.getvalue().splitlines()
    assert lines[0] == "tokenise    0%  0/2.80k  0:00 passed"
    assert "tokenise  100%  2.80k/2.80k  0:03 passed" in lines
    assert lines[-2:] == [
        "near duplicates  5.00k  0:00 passed",
        "near duplicates  9.00k  0:01 passed",
    ]
    assert len(lines) == 5


def test_data_stages_on_a_screen_are_a_line_each():
    screen, clock = Screen(), Clock()
    progress = DataProgress(stream=screen, width=60, clock=clock)
    progress("clean {prose}", 0, 400)
    clock.now = 10
    progress("clean {prose}", 100, 400)
    assert screen.drawn()[-1].startswith("clean {prose}  25%|")
    assert screen.drawn()[-1].rstrip().endswith("| 100/400  0:30 left")
    progress("clean {prose}", 400, 400)
    progress("split", 7, None)
    progress.close()
    first, second, *_ = screen.lines()
    assert first.startswith("clean {prose} 100%|") and first.endswith("400/400  0:10 passed")
    assert second == "split  7  0:00 passed"


def test_an_end_before_the_beginning_is_quiet():
    screen = Screen()
    Progress(10, stream=screen).close()
    DataProgress(stream=screen).close()
    assert screen.getvalue() == ""
