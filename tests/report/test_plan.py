import json

import pytest

from fttune.report.plan import Disk, Memory, Plan, Range, StageLine, amount, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.034, "0.03 s"),
        (7.4, "7 s"),
        (42.0, "40 s"),
        (89.0, "90 s"),
        (100.0, "2 min"),
        (3000.0, "50 min"),
        (9000.0, "2 h"),
        (200_000.0, "2 days"),
    ],
)
def test_times_have_one_digit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 kB"), (45_100_000, "45 MB"), (1.23e9, "1.2 GB"), (999e6, "1.0 GB")]
)
def test_amounts_have_two_digits(number, text):
    assert amount(number) == text


def plan(**changes) -> Plan:
    fields = {
        "name": "pets",
        "kind": "study",
        "device": "cpu",
        "trials": 24,
        "epochs": 5,
        "steps": 7,
        "images": {"train": {"cat": 3, "dog": 4}, "val": {f"c{index}": index + 1 for index in range(9)}},
        "test": 11,
        "stages": (
            StageLine(0, "head", 1234, True, 0.5, 2.0, "measured"),
            StageLine(1, "layer4", 5_000_000, False),
        ),
        "pass_seconds": 12.0,
        "seconds": Range(100.0, 300.0, 600.0),
        "plain_seconds": Range(4000.0, 4000.0, 4000.0),
        "memory": Memory(1_100_000_000, 1_200_000_000, None),
        "disk": Disk(1_000_000, 2_000_000, 45_000_000, 1_080_000_000, 70_000_000_000, 35_000_000_000),
    }
    return Plan(**{**fields, **changes})


def test_the_text_says_of_each_figure_whether_it_was_measured_or_estimated():
    text = plan().as_text()
    assert text.startswith("study pets: 24 trials of 5 epochs of 7 updates on cpu\n")
    assert "train: 7 images (cat 3, dog 4)" in text
    assert "val: 45 images (9 classes of 1 to 9)" in text
    assert "test: 11 images, which stay closed" in text
    assert "time (estimated): 5 min if depths are spread evenly, 2 min to 10 min if all are" in text
    assert "10 s of it for one pass through frozen stages" in text
    assert "time, at most (estimated, nothing shared): 70 min" in text
    assert "memory: 1.2 GB (estimated; 1.1 GB measured here)" in text
    assert "checkpoints 24 x 45 MB = 1.1 GB (estimated)" in text
    rows = {tuple(line.split()) for line in text.splitlines()}
    assert ("0", "head", "1,234", "yes", "0.50", "2.0", "measured") in rows
    assert ("1", "layer4", "5,000,000", "-", "-", "-", "-") in rows


def test_without_room_for_activations_only_the_bound_is_given():
    text = plan(seconds=None).as_text()
    assert "time (estimated)" not in text
    assert "time, at most" in text


def test_json_holds_all_of_it_the_first_plan_too():
    found = json.loads(plan(first=plan(name="source", kind="experiment")).as_json())
    assert found["first"]["name"] == "source"
    assert found["seconds"] == {"low": 100.0, "even": 300.0, "high": 600.0}
    assert "before it, once" in plan(first=plan(name="source", kind="experiment")).as_text()
