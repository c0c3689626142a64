import pytest

from fttune.config.load import load_study
from fttune.config.workers import Cluster, Processes
from fttune.errors import ConfigError

from .examples import experiment_fields, lines, study_fields, write

SHORT = [
    (1, Processes()),
    (4, Processes(count=4)),
    ("auto", Processes(count="auto")),
    ("ray", Cluster()),
    ("10.0.0.1:6379", Cluster(address="10.0.0.1:6379")),
    ("head-node:6379", Cluster(address="head-node:6379")),
    ({"type": "processes", "count": 2}, Processes(count=2)),
    ({"type": "ray", "count": 8, "gpus_per_trial": 0.5}, Cluster(count=8, gpus_per_trial=0.5)),
    ({"type": "ray", "shared": "s3://bucket/fttune"}, Cluster(shared="s3://bucket/fttune")),
]
BROKEN = [
    (0, "workers.count: must be a whole number from 1 to 1000, or auto, got 0"),
    ("many", "workers: must be a whole number, auto, ray, HOST:PORT of a Ray cluster or a mapping with type, "),
    (True, "workers: must be a whole number, auto, ray, HOST:PORT of a Ray cluster or a mapping with type, got True"),
    ("ray://head:10001", "workers.address: must be local or HOST:PORT, of the cluster's head, got 'ray://head:10001'"),
    (
        {"type": "ray", "shared": "/nfs/fttune"},
        "workers.shared: must be a URL that all machines reach, such as s3://bucket/folder or file:///nfs/folder, got",
    ),
    ({"type": "ray", "shared": "file://nfs/fttune"}, "workers.shared: must be a URL that all machines reach, such as"),
    ({"type": "ray", "shared": "memory://fttune"}, "workers.shared: must be a URL that all machines reach, such as"),
    ({"type": "slurm"}, "workers.type: must be one of processes, ray, got 'slurm'"),
    ({"type": "ray", "gpus_per_trial": 1.5}, "workers.gpus_per_trial: must be a share of one GPU or whole GPUs, got"),
    ({"type": "ray", "cpu_per_trial": 2}, "workers.cpu_per_trial: unknown key"),
]


def study_with(tmp_path, workers):
    write(tmp_path, experiment_fields(), "recipe.yaml")
    return load_study(write(tmp_path, study_fields({"workers": workers}), "search.yaml"))


@pytest.mark.parametrize(("written", "meant"), SHORT, ids=str)
def test_workers_have_short_forms(tmp_path, written, meant) -> None:
    assert study_with(tmp_path, written).workers == meant


@pytest.mark.parametrize(("written", "problem"), BROKEN, ids=str)
def test_workers_that_cannot_be_are_refused_in_one_line(tmp_path, written, problem) -> None:
    with pytest.raises(ConfigError) as caught:
        study_with(tmp_path, written)
    (line,) = lines(caught.value)
    assert line.startswith(problem)


def test_the_short_form_names_a_pool(tmp_path) -> None:
    assert [study_with(tmp_path, short).workers.shown for short in (1, "auto", "ray", "10.0.0.1:6379")] == [
        "1",
        "auto",
        "ray",
        "10.0.0.1:6379",
    ]
