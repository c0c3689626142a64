import json
import math

from fttune.report import TrialRow, as_records, as_text, distinct_recipes, summary, table

ROWS = [
    TrialRow(3, "complete", 0.9, {"optimizer.lr": 0.00012344, "freeze.unfrozen_stages": 2}, 4, 1000, 1.5),
    TrialRow(1, "pruned", 0.5, {"optimizer.lr": 0.1, "freeze.unfrozen_stages": 0}, 1, 10, 0.5),
    TrialRow(2, "running", None, {"optimizer.lr": 0.2}, None, None, None),
]


def test_a_table_has_one_line_for_each_trial_in_the_given_order() -> None:
    frame = table(ROWS)
    assert frame["number"].tolist() == [3, 1, 2]
    assert list(frame.columns) == [
        "number",
        "state",
        "value",
        "optimizer.lr",
        "freeze.unfrozen_stages",
        "best_epoch",
        "trainable_parameters",
        "seconds",
    ]
    assert math.isnan(frame["value"][2])


def test_several_objectives_are_columns_in_place_of_the_value() -> None:
    rows = [
        TrialRow(0, "complete", 0.9, {"optimizer.lr": 0.1}, 4, 77717, 1.5, values=(0.9, 77717.0, 0.12)),
        TrialRow(1, "complete", 0.8, {"optimizer.lr": 0.2}, 1, 325, 0.5, values=(0.8, 325.0, 0.1)),
    ]
    names = ("val/accuracy", "trial/trainable_parameters", "trial/seconds")
    frame = table(rows, objectives=names)
    assert list(frame.columns)[:6] == ["number", "state", *names, "optimizer.lr"]
    lines = as_text(frame).splitlines()
    assert lines[1].split()[:6] == ["0", "complete", "0.9", "77717", "0.12", "0.1"]
    assert lines[2].split()[:6] == ["1", "complete", "0.8", "325", "0.1", "0.2"]


def test_text_shows_whole_numbers_whole_and_missing_ones_as_a_dash() -> None:
    lines = as_text(table(ROWS)).splitlines()
    assert lines[1].split() == ["3", "complete", "0.9", "0.0001234", "2", "4", "1000", "1.5"]
    assert lines[3].split()[:3] == ["2", "running", "-"]


def test_records_are_json_with_null_for_what_is_missing() -> None:
    records = json.loads(json.dumps(as_records(table(ROWS))))
    assert records[0]["best_epoch"] == 4
    assert records[0]["value"] == 0.9
    assert (records[2]["value"], records[2]["best_epoch"], records[2]["freeze.unfrozen_stages"]) == (None, None, None)


def test_a_study_without_trials_is_an_empty_table() -> None:
    assert as_records(table([])) == []


def test_reused_trials_are_counted_apart_and_named() -> None:
    reused = TrialRow(5, "complete", 0.9, {"optimizer.lr": 0.3}, 4, 1000, 0.0, reused_from=3)
    assert summary([*ROWS, reused]) == "2 complete (1 distinct recipes), 1 pruned, 1 running"
    assert summary(ROWS) == "1 complete, 1 pruned, 1 running"
    assert distinct_recipes([*ROWS, reused]) == 1
    assert [record["reused_from"] for record in as_records(table([*ROWS, reused]))] == [None, None, None, 3]
    assert "reused_from" not in table(ROWS)
