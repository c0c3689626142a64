import io

from rich.console import Console

from fttune.display import Bars, Lines, describe, display
from fttune.training.events import Described, Entry, EpochEnded, Notice, RunClosed, RunOpened, StudyProgress

STUDY = RunOpened("pets", "pets", tags={"fttune.kind": "study"}, params={"training.epochs": 3})
TRIAL = RunOpened("trial-0007", "pets", parent="pets", tags={"fttune.kind": "trial"}, params={"training.epochs": 3})
TRAIN = RunOpened("pets", "pets", tags={"fttune.kind": "train"}, params={"training.epochs": 3})
STORY = [
    ("pets", STUDY),
    ("pets", StudyProgress(6, 24, 0.5)),
    ("pets/7", TRIAL),
    (
        "pets/7",
        Described({"fttune.trainable": "trainable 8.4M of 11.2M parameters: layer4, head", "fttune.device": "cpu"}),
    ),
    ("pets/7", EpochEnded(1, {"train/loss": 0.5, "val/loss": 0.25, "val/accuracy": 0.75, "lr": 0.1})),
    ("pets/7", RunClosed("complete", metrics={"value": 0.75, "best_epoch": 1.0})),
    ("pets", StudyProgress(7, 24, 0.75)),
    ("pets", Notice("a word to people")),
    ("pets", RunClosed("failed", {"fttune.cause": "no disk"})),
]


def told(terminal: bool, story: list[tuple[str, object]]) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, highlight=False)
    with display(console) as show:
        for run, event in story:
            show(Entry(run, event))  # type: ignore[arg-type]
    return stream.getvalue()


def test_lines_tell_each_run_once_and_its_end() -> None:
    assert told(False, STORY).splitlines() == [
        "trial-0007: trainable 8.4M of 11.2M parameters: layer4, head; device cpu",
        "trial-0007: complete, value 0.75, best epoch 1",
        "pets: a word to people",
        "pets: failed, no disk",
    ]


def test_lines_tell_every_epoch_of_a_training_run() -> None:
    epochs = [("t", EpochEnded(n, {"train/loss": 1 / n})) for n in (1, 2)]
    assert told(False, [("t", TRAIN), *epochs]).splitlines() == [
        "pets: epoch 1/3, train/loss 1",
        "pets: epoch 2/3, train/loss 0.5",
    ]


def test_tags_that_say_nothing_of_a_training_are_passed_over() -> None:
    assert describe(Described({"fttune.test_opened": "2026-11-26"})) is None


def test_a_long_trial_is_not_silent() -> None:
    stream = io.StringIO()
    lines = Lines(Console(file=stream, width=120))
    lines(Entry("pets/7", TRIAL))
    lines._spoken -= 6
    lines(Entry("pets/7", EpochEnded(2, {"val/loss": 0.5})))
    assert stream.getvalue() == "trial-0007: epoch 2/3, val/loss 0.5\n"


def test_bars_show_study_trial_epoch_best_so_far_and_time_left() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, highlight=False)
    with Bars(console) as bars:
        for run, event in STORY[:5]:
            bars(Entry(run, event))  # type: ignore[arg-type]
        with console.capture() as capture:
            console.print(bars._progress.get_renderable())
    shown = capture.get()
    assert "study pets" in shown
    assert "6/24" in shown
    assert "best 0.5" in shown
    assert "trial-0007" in shown
    assert "1/3" in shown
    assert "val/accuracy 0.75" in shown
    assert "left" in shown


def test_bars_leave_the_ends_of_runs_above_them() -> None:
    text = told(True, STORY)
    assert "trial-0007: complete, value 0.75, best epoch 1" in text
    assert "pets: a word to people" in text


def test_square_brackets_of_a_message_are_not_markup() -> None:
    assert told(False, [("x", Notice("left out [red]cat[0].png"))]) == "x: left out [red]cat[0].png\n"
