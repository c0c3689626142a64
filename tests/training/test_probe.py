"""A short measured run does real work, and leaves nothing behind."""

import torch

from fttune.data import ArrayCache
from fttune.training import CheckpointFolder, fine_tune, prepare
from fttune.training.probe import measure, measure_pass, some
from tests.recipes import tiny_experiment


def test_a_probe_changes_no_training_and_leaves_no_file(workspace):
    experiment = tiny_experiment(workspace.root, freeze__unfrozen_stages=2)
    expected = fine_tune(experiment, prepare(experiment, workspace)).step_losses
    inputs = prepare(experiment, workspace)
    files, state = set(workspace.mlruns.rglob("*")), torch.random.get_rng_state()
    measure(experiment, inputs, folder=workspace.cache)
    measure_pass(experiment, inputs, [1, 2])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(workspace.mlruns.rglob("*")) == files
    assert fine_tune(experiment, inputs).step_losses == expected


def test_a_checkpoint_has_the_size_of_a_trainings_own(workspace):
    experiment = tiny_experiment(workspace.root)
    inputs = prepare(experiment, workspace)
    measured = measure(experiment, inputs, folder=workspace.cache)
    fine_tune(experiment, inputs, checkpoints=CheckpointFolder(workspace.cache / "run"))
    tensors = (workspace.cache / "run" / "best.safetensors").stat().st_size
    assert tensors < measured.checkpoint_bytes < tensors + 10_000  # the JSON beside it, without metrics
    assert measured.parameters == sum(p.numel() for p in _module(experiment, inputs).parameters())


def test_activations_have_the_bytes_that_a_search_then_keeps(workspace):
    experiment = tiny_experiment(workspace.root, freeze__unfrozen_stages=0)
    inputs = prepare(experiment, workspace)
    found = measure_pass(experiment, inputs, [2, 4])
    inputs.workbench.activations.wanted = frozenset({2, 4})
    fine_tune(experiment, inputs)
    kept = list(ArrayCache(workspace.arrays).folder.glob("activations/*.npy"))
    images = len(inputs.data.train.images) + len(inputs.data.val.images)
    headers = 128 * len(kept)
    assert sum(file.stat().st_size for file in kept) == images * sum(found.row_bytes.values()) + headers
    assert sorted(found.row_bytes) == [2, 4]
    assert len(found.stage_seconds) == 4


def test_there_is_a_shared_pace_exactly_where_stages_run_once(workspace):
    for depth, norms, boundary in ((0, "frozen", 4), (1, "frozen", 3), (4, "frozen", 0), (0, "updated", 0)):
        experiment = tiny_experiment(workspace.root, freeze__unfrozen_stages=depth, freeze__norm_stats=norms)
        measured = measure(experiment, prepare(experiment, workspace), folder=workspace.cache)
        assert measured.boundary == boundary
        assert (measured.shared is None) == (boundary == 0)
        assert measured.plain.step > 0 and measured.unrest >= 1


def test_some_images_are_spread_evenly_and_keep_their_labels(workspace):
    part = prepare(tiny_experiment(workspace.root), workspace).data.train
    few = some(part, 5)
    rows = [part.names.index(name) for name in few.names]
    assert rows == [0, 6, 12, 17, 23]
    assert few.labels.tolist() == part.labels[rows].tolist()
    assert (few.images == part.images[rows]).all()
    assert len(some(part, 1000).labels) == len(part.labels)


def _module(experiment, inputs):
    from fttune.training.run import prepare_run

    return prepare_run(experiment, inputs).backbone.module
