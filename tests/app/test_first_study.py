"""What is proposed for a folder loads, fits the images, and says why."""

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fttune.app.first_study import propose
from fttune.config import Study, load_study
from fttune.data.images import Header, Unreadable
from fttune.data.listing import Sample
from fttune.data.survey import Survey, SurveyedFile
from fttune.errors import DataError


def survey_of(counts: dict[str, int], *, side: int = 300, splits: tuple[str | None, ...] = (None,)) -> Survey:
    """So many images of each class, in each of the splits."""
    files = []
    for split in splits:
        for label, count in counts.items():
            for index in range(count):
                name = f"{split}/{label}/{index}"
                files.append(SurveyedFile(Sample(name, label, Path(name), split), Header((side + 9, side), name)))
    return Survey(tuple(files))


def loaded(survey: Survey, *, path: str = "pets") -> Study:
    """Return what is proposed, as a command would read it."""
    with tempfile.TemporaryDirectory() as folder:
        for place, text in (("experiments", "experiment"), ("studies", "study")):
            (Path(folder) / place).mkdir()
            written = getattr(propose(survey, name="first", path=path), text)
            (Path(folder) / place / "first.yaml").write_text(written, encoding="utf-8")
        return load_study(Path(folder) / "studies" / "first.yaml")


@settings(max_examples=40, deadline=None)
@given(
    counts=st.dictionaries(st.sampled_from(["a", "b: #", "ü", '"', "2"]), st.integers(2, 60), min_size=2),
    side=st.integers(1, 5000),
    splits=st.sampled_from([(None,), ("train",), ("train", "val"), ("train", "test"), ("train", "val", "test")]),
)
def test_whatever_is_seen_the_files_load_and_no_batch_has_one_image(counts, side, splits):
    survey = survey_of(counts, side=side, splits=splits)
    proposed, study = propose(survey, name="first", path="pets"), loaded(survey)
    recipe = study.experiment
    assert 64 <= recipe.data.image_size <= 224
    assert proposed.train % recipe.training.batch_size != 1 or recipe.training.batch_size == 2
    assert 5 <= recipe.training.epochs <= 30
    assert recipe.backbone.name in ("resnet18", "resnet50")
    assert (study.metric == "val/accuracy") == (proposed.imbalance < 1.5)


@pytest.mark.parametrize("path", ["my pets", "a: b", "#1", '"quoted"', "Füße", "back\\slash", "- x"])
def test_any_printable_path_comes_back_as_it_was(path):
    assert loaded(survey_of({"a": 9, "b": 9}), path=path).experiment.data.path == path


@pytest.mark.parametrize(
    ("side", "expected"), [(8, 64), (64, 64), (65, 96), (200, 224), (223, 224), (224, 224), (4000, 224)]
)
def test_the_image_size_is_the_medians_next_multiple_of_32_between_64_and_224(side, expected):
    assert loaded(survey_of({"a": 5, "b": 5}, side=side)).experiment.data.image_size == expected


def test_uneven_classes_are_weighted_and_judged_alike():
    study = loaded(survey_of({"a": 60, "b": 10}))
    assert study.experiment.training.class_weights == "balanced"
    assert study.metric == "val/balanced_accuracy"
    even = loaded(survey_of({"a": 60, "b": 60}))
    assert even.experiment.training.class_weights == "none"
    assert even.metric == "val/accuracy"


def test_much_data_gets_the_larger_net_fewer_epochs_and_trials_and_smaller_shares():
    small, large = loaded(survey_of({"a": 40, "b": 40})), loaded(survey_of({"a": 7000, "b": 7000}))
    assert (small.experiment.backbone.name, large.experiment.backbone.name) == ("resnet18", "resnet50")
    assert small.experiment.training.epochs > large.experiment.training.epochs
    assert small.budget.n_trials > large.budget.n_trials
    assert small.experiment.data.split.val > large.experiment.data.split.val


def test_what_the_folders_give_is_not_drawn_again():
    text = propose(survey_of({"a": 9, "b": 9}, splits=("train", "val", "test")), name="n", path="p").experiment
    assert "split" not in yaml.safe_load(text)["data"]
    text = propose(survey_of({"a": 9, "b": 9}, splits=("train", "test")), name="n", path="p").experiment
    assert yaml.safe_load(text)["data"]["split"] == {"val": 0.2, "seed": 0}


def test_images_of_a_given_test_split_decide_nothing():
    survey = survey_of({"a": 9, "b": 9}, side=70, splits=("train", "val"))
    tests = survey_of({"a": 900, "b": 1}, side=4000, splits=("test",))
    both = Survey(survey.files + tests.files)
    assert propose(both, name="n", path="p") == propose(survey, name="n", path="p")


def test_unreadable_files_are_left_out_and_a_class_of_one_image_is_refused():
    survey = survey_of({"a": 9, "b": 9})
    spoilt = Survey((SurveyedFile(survey.files[0].sample, Unreadable("cut")), *survey.files[1:]))
    assert loaded(spoilt).experiment.data.on_bad_image == "skip"
    assert loaded(survey).experiment.data.on_bad_image == "error"
    assert loaded(survey_of({"a": 9, "b": 2})).experiment.data.split.test == 0.0
    with pytest.raises(DataError, match="class 'b' has 1 readable images"):
        propose(survey_of({"a": 9, "b": 1}), name="n", path="p")
