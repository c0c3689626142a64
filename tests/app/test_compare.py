"""Two real studies, searched and confirmed, against each other; runs too; and what may not be compared."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import fttune
from fttune.app.compare import compare
from fttune.config import Experiment, Study, load_experiment
from fttune.config.workspace import Workspace
from fttune.errors import BadInput
from fttune.report.confirmation import Confirmation
from tests import processes
from tests.app.test_using_winners import picture_folder
from tests.recipes import changed, tiny_study, write_experiment, write_study
from tests.stored import runs_of

LR = {"type": "float", "low": 0.01, "high": 0.1, "log": True}
FIELDS = {
    "budget": {"n_trials": 3},
    "batch": 3,
    "confirm": {"top_k": 2, "seeds": 3},
    "space": {"optimizer.lr": LR, "freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 4}},
}
PICTURES = {"source": "folder", "path": "pictures", "image_size": 8, "resize": 10}


def study_of(root: Path, name: str, experiment: str = "tiny", **fields) -> Study:
    own = changed({**FIELDS, "experiment": f"../experiments/{experiment}.yaml"}, **fields)
    return fttune.load_study(write_study(root, name, **own))


def searched(root: Path, name: str, experiment: str = "tiny", **fields) -> Study:
    study = study_of(root, name, experiment, **{"budget": {"n_trials": 1}, **fields})
    fttune.search(study, workspace=Workspace.at(root))
    return study


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Study], dict[str, Confirmation]]:
    """Deep and shallow share data and seeds; late has other seeds."""
    root = tmp_path_factory.mktemp("compared")
    workspace = Workspace.at(root)
    write_experiment(root, training__epochs=3)
    write_experiment(root, "later", training__epochs=3, seed=10)
    shallow = {"optimizer.lr": LR}
    studies = {
        "deep": study_of(root, "deep"),
        "shallow": study_of(root, "shallow", space=shallow, sampler={"type": "random", "seed": 5}),
        "late": study_of(root, "late", "later", space=shallow),
    }
    found = {}
    for name, study in studies.items():
        fttune.search(study, workspace=workspace)
        found[name] = fttune.confirm(study, workspace=workspace)
    return workspace, studies, found


def predictions_of(workspace: Workspace, study: str) -> pd.DataFrame:
    runs = runs_of(workspace.mlflow_uri)
    (uri,) = runs[(runs["tags.fttune.kind"] == "study") & (runs["tags.fttune.study"] == study)]["artifact_uri"]
    return pd.read_csv(Path(uri.removeprefix("file://")) / "confirm" / "predictions.csv", index_col="sample")


def test_winners_are_paired_by_the_seeds_and_the_samples_that_they_share(confirmed):
    workspace, studies, found = confirmed
    result = compare(studies["deep"], studies["shallow"], workspace=workspace)
    ours, theirs = (found[name].candidates[0] for name in ("deep", "shallow"))
    pair = result.pairs[0]
    assert (pair.first, pair.second) == (f"deep {ours.name}", f"shallow {theirs.name}")
    assert pair.val.seeds == found["deep"].seeds == (1, 2, 3)
    expected = stats.ttest_rel(ours.val, theirs.val)
    if len(result.pairs) == 1:
        assert pair.val.p == pytest.approx(expected.pvalue)
    assert (pair.val.low, pair.val.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    hits = {}
    for name, one in (("deep", ours), ("shallow", theirs)):
        frame = predictions_of(workspace, name)
        hits[name] = np.stack([frame[f"{one.name} seed {seed}"] == frame["class"] for seed in (1, 2, 3)])
    assert result.samples == hits["deep"].shape[1]
    assert pair.test.mean == pytest.approx(hits["deep"].mean() - hits["shallow"].mean())
    exact = []
    for a, b in zip(hits["deep"], hits["shallow"], strict=True):
        better, either = int((a & ~b).sum()), int((a != b).sum())
        exact.append(stats.binomtest(better, either).pvalue if either else 1.0)
    assert pair.test.mcnemar == pytest.approx(exact)


def test_the_recommended_recipe_is_compared_where_it_is_another_one(confirmed):
    workspace, studies, found = confirmed
    result = compare(studies["deep"], studies["shallow"], workspace=workspace)
    others = [one for one in found.values() if one.recommended != one.candidates[0].trial and one.study != "late"]
    assert [one.role for one in result.contenders].count("recommended") == len(others)
    assert len(result.pairs) == (2 if others else 1)


def test_studies_of_other_seeds_are_compared_unpaired_and_it_is_said(confirmed):
    workspace, studies, found = confirmed
    result = compare(studies["deep"], studies["late"], workspace=workspace)
    ours, theirs = (found[name].candidates[0] for name in ("deep", "late"))
    expected = stats.ttest_ind(ours.val, theirs.val, equal_var=False)
    pair = result.pairs[0]
    assert pair.val.seeds == ()
    assert (pair.val.low, pair.val.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert pair.test.mcnemar == ()
    assert "val/accuracy is unpaired (Welch), since they do not share two seeds" in result.as_text()


def test_the_command_prints_tables_or_json(confirmed):
    workspace, studies, _ = confirmed
    files = ("studies/deep.yaml", "studies/shallow.yaml")
    code, out, err = processes.run("compare", *files, cwd=workspace.root)
    assert (code, err) == (0, "")
    result = compare(studies["deep"], studies["shallow"], workspace=workspace)
    assert out == result.as_text() + "\n"
    code, out, _ = processes.run("compare", *files, "--json", cwd=workspace.root)
    assert (code, out) == (0, result.as_json() + "\n")
    assert json.loads(out)["pairs"][0]["test"]["mean"] == result.pairs[0].test.mean


def test_a_confirmation_whose_predictions_are_gone_is_compared_by_validation_alone(confirmed, tmp_path):
    workspace, studies, _ = confirmed
    files = list(workspace.artifacts.rglob("predictions.csv"))
    for index, file in enumerate(files):
        file.rename(tmp_path / f"{index}.csv")
    try:
        result = compare(studies["deep"], studies["shallow"], workspace=workspace)
    finally:
        for index, file in enumerate(files):
            (tmp_path / f"{index}.csv").rename(file)
    assert result.pairs[0].test is None and result.pairs[0].val.seeds == (1, 2, 3)
    assert "the test predictions of deep are not in MLflow" in result.notes


def test_unconfirmed_studies_have_no_p_value_and_are_told_the_command(tmp_path):
    picture_folder(tmp_path / "pictures")
    write_experiment(tmp_path, data={**PICTURES, "split": {"val": 0.3, "test": 0.3}}, training__epochs=1)
    studies = [searched(tmp_path, name, budget={"n_trials": 2}, batch=2) for name in ("one", "two")]
    stored = [fttune.search(study, workspace=Workspace.at(tmp_path)) for study in studies]
    shutil.rmtree(tmp_path / "pictures")  # nothing is read or trained
    result = compare(*studies, workspace=Workspace.at(tmp_path))
    (pair,) = result.pairs
    assert pair.val.mean == pytest.approx(stored[0].best_value - stored[1].best_value)
    assert (pair.val.low, pair.val.p, pair.test) == (None, None, None)
    assert "a single run is no evidence" in result.notes[0]
    assert "run `fttune confirm` on one; run `fttune confirm` on two" in result.notes[0]


def test_studies_of_other_metrics_and_splits_are_refused_with_every_difference(confirmed):
    workspace, studies, _ = confirmed
    write_experiment(workspace.root, "resplit", training__epochs=1, data__split__seed=1)
    other = searched(workspace.root, "other", "resplit", metric="val/loss", direction="minimize")
    code, out, err = processes.run("compare", "studies/deep.yaml", "studies/other.yaml", cwd=workspace.root)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "deep and other cannot be compared:",
        "  metric: deep has val/accuracy, other has val/loss; "
        "give both the same `metric` (of a run: `training.monitor`)",
        "  data.split.seed: deep has 0, other has 1; "
        "samples that one trains on would judge the other; give both the same data.split",
    ]
    with pytest.raises(BadInput, match="other and deep cannot be compared"):
        compare(other, studies["deep"], workspace=workspace)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished run of the experiment base."""
    root = tmp_path_factory.mktemp("trained")
    fttune.train(load_experiment(write_experiment(root, "base", training__epochs=1)), workspace=Workspace.at(root))
    return Workspace.at(root)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"training__monitor": "val/accuracy"}, "metric: {base} has val/loss, {other} has val/accuracy;"),
        ({"data__split__val": 0.3}, "data.split.val: {base} has 0.2, {other} has 0.3; samples that one trains on"),
        ({"data__classes": [0, 1]}, "data.classes: {base} has 0, 1, 2, {other} has 0, 1; give both the same"),
        ({"data__limit_per_class": 4}, "data.limit_per_class: {base} has 8, {other} has 4; use the same images"),
        ({"data__shift": {"label_flip": True}}, "data.shift.label_flip: {base} has none, {other} has True; use"),
    ],
)
def test_what_differs_is_refused_by_its_name(changes, line, trained):
    base = load_experiment(trained.root / "experiments" / "base.yaml")
    other = load_experiment(write_experiment(trained.root, "other", training__epochs=1, **changes))
    fttune.train(other, workspace=trained)
    with pytest.raises(BadInput) as refused:
        compare(base, other, workspace=trained)
    expected = line.format(base="experiment base", other="experiment other")
    assert f"experiment base and experiment other cannot be compared:\n  {expected}" in str(refused.value)


def test_other_images_and_classes_under_equal_fields_are_refused_too(workspace):
    def run_of(name: str) -> Experiment:
        data = {**PICTURES, "split": {"val": 0.3, "test": 0.0}}
        experiment = load_experiment(write_experiment(workspace.root, name, data=data, training__epochs=1))
        fttune.train(experiment, workspace=workspace)
        return experiment

    pictures = picture_folder(workspace.root / "pictures")
    first = run_of("first")
    shutil.rmtree(pictures / "blue")
    second = run_of("second")
    with pytest.raises(
        BadInput, match="classes: experiment first has blue, green, red, experiment second has green, red"
    ):
        compare(first, second, workspace=workspace)
    picture_folder(pictures, side=21)
    with pytest.raises(
        BadInput, match=r"data: experiment first has content \w{12}, experiment third has \w{12}; use the"
    ):
        compare(first, run_of("third"), workspace=workspace)


def test_an_experiment_stands_for_its_runs_under_every_seed(workspace):
    fast, slow = (
        load_experiment(write_experiment(workspace.root, name, training__epochs=1, optimizer__lr=lr))
        for name, lr in (("fast", 0.05), ("slow", 0.01))
    )
    values = {
        one.name: [fttune.train(one.replace({"seed": seed}), workspace=workspace).value for seed in (0, 1, 2)]
        for one in (fast, slow)
    }
    fttune.train(fast.replace({"optimizer.lr": 0.2}), workspace=workspace)  # not the file as it stands
    result = compare(fast, slow, workspace=workspace)
    (pair,) = result.pairs
    expected = stats.ttest_rel(values["fast"], values["slow"])
    assert (pair.first, pair.val.seeds, result.direction) == ("experiment fast", (0, 1, 2), "minimize")
    assert pair.val.p == pytest.approx(expected.pvalue)
    ids = [runs_of(workspace.mlflow_uri, name)["run_id"].iloc[-1] for name in values]  # the oldest ones
    code, out, err = processes.run("compare", *ids, "--json", cwd=workspace.root)
    assert code == 0, err
    (pair,) = json.loads(out)["pairs"]
    assert pair["val"]["mean"] == pytest.approx(values["fast"][0] - values["slow"][0])
    assert pair["val"]["p"] is None


def test_a_trial_is_compared_by_the_metric_and_the_data_of_its_study(workspace):
    study = tiny_study(workspace.root, budget={"n_trials": 2}, experiment="../experiments/tiny.yaml")
    stored = fttune.search(study, workspace=workspace)
    runs = runs_of(workspace.mlflow_uri).set_index("tags.fttune.trial")["run_id"]
    result = compare(runs["0"], runs["1"], workspace=workspace)
    assert result.metric == "val/accuracy"
    assert result.pairs[0].val.mean == pytest.approx(stored.trials[0].value - stored.trials[1].value)


def test_what_is_not_there_or_has_no_value_is_refused(workspace):
    write_experiment(workspace.root, data__split__val=0.0, training__epochs=1)
    bare = load_experiment(workspace.root / "experiments" / "tiny.yaml")
    study = study_of(workspace.root, "deep")
    with pytest.raises(BadInput, match="study deep has not been searched here"):
        compare(study, bare, workspace=workspace)
    with pytest.raises(
        BadInput, match="experiment tiny has no finished run of its file as it stands; run `fttune train`"
    ):
        compare(bare, "0" * 32, workspace=workspace)
    fttune.train(bare, workspace=workspace)
    run_id = runs_of(workspace.mlflow_uri)["run_id"].iloc[0]
    with pytest.raises(BadInput, match="has no value to compare, since it had no validation split"):
        compare(run_id, bare, workspace=workspace)
    with pytest.raises(BadInput, match=r"run 0{32} is not in this MLflow"):
        compare("0" * 32, bare, workspace=workspace)
    with pytest.raises(BadInput, match="'abc' is no run id"):
        compare("abc", bare, workspace=workspace)
    write_experiment(workspace.root, "other", training__epochs=1)
    study = searched(workspace.root, "ends", "other")
    with pytest.raises(BadInput, match="both name ends"):
        compare(study, study, workspace=workspace)
    runs = runs_of(workspace.mlflow_uri, "other")
    parent = runs[runs["tags.fttune.kind"] == "study"]["run_id"].iloc[0]
    with pytest.raises(BadInput, match="is that of study ends; name the study's YAML file"):
        compare(parent, study, workspace=workspace)


def test_a_folder_without_runs_is_said_to_hold_none(tmp_path):
    with pytest.raises(BadInput, match="holds no runs yet"):
        compare("0" * 32, "1" * 32, workspace=Workspace.at(tmp_path))
    assert not (tmp_path / "mlruns").exists()
