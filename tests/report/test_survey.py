from pathlib import Path

from fttune.data.images import Header, Unreadable
from fttune.data.listing import Sample
from fttune.data.survey import Survey, SurveyedFile
from fttune.report.survey import survey_record, survey_text


def file(name: str, content: str) -> SurveyedFile:
    split, label, _ = name.split("/")
    return SurveyedFile(Sample(name, label, Path(name), split), Header((40, 30), content))


SURVEY = Survey(
    (
        file("train/cat/0", "a"),
        file("train/cat/1", "b"),
        file("train/dog/0", "c"),
        file("val/cat/0", "a"),
        SurveyedFile(Sample("val/dog/0", "dog", Path("x"), "val"), Unreadable("cut")),
    )
)


def test_the_table_has_a_column_per_split_and_a_line_for_all():
    table = [line.split() for line in survey_text(SURVEY, 2.0).splitlines()[:4]]
    assert table == [["class", "train", "val"], ["cat", "2", "1"], ["dog", "1", "0"], ["all", "3", "1"]]


def test_copies_across_splits_and_unreadable_files_are_named():
    text = survey_text(SURVEY, 2.0)
    assert "sizes: smallest 40 x 30, median 40 x 30, largest 40 x 30" in text
    assert "imbalance: the largest class has 2 times" in text
    assert "exact copies: 1: train/cat/0 = val/cat/0; 1 across splits, which makes results look better" in text
    assert "cannot be read: 1: val/dog/0 (cut)" in text
    assert survey_record(SURVEY, 2.0)["unreadable"] == {"val/dog/0": "cut"}


def test_many_classes_are_cut_to_twenty_lines():
    survey = Survey(tuple(file(f"train/c{index}/0", str(index)) for index in range(30)))
    lines = survey_text(survey, 1.0).splitlines()
    assert lines[21].split() == ["(10", "more)", "10"]
    assert lines[22].split() == ["all", "30"]
    assert len(survey_record(survey, 1.0)["classes"]) == 30
