"""Room on the disk: what a night may need, and what the generated folder holds."""

from pathlib import Path

import pytest
import torchvision

from fttune.config.workspace import Workspace
from fttune.errors import CannotWrite
from fttune.nightly import room
from fttune.nightly.room import RESERVE_BYTES, disk_used, needed_bytes, require_room
from tests.recipes import tiny_study, write_experiment


def test_a_night_needs_room_for_the_checkpoints_that_stay(tmp_path: Path) -> None:
    write_experiment(tmp_path, backbone__name="resnet18", data__image_size=32, data__resize=32)
    depth = {"freeze.unfrozen_stages": {"type": "int", "low": 0, "high": 4}}
    of_one = sum(parameter.numel() for parameter in torchvision.models.resnet18().parameters()) * 4
    given = {"space": depth, "nightly": {"trials_per_night": 16}, "confirm": {"top_k": 3, "seeds": 5}, "batch": 4}
    assert needed_bytes(tiny_study(tmp_path, **given)) == RESERVE_BYTES + (16 + 15) * of_one
    few = tiny_study(tmp_path, **given, retention={"keep": "best_2"})
    assert needed_bytes(few) == RESERVE_BYTES + (2 + 4 + 15) * of_one


def test_a_study_without_room_is_refused_before_it_begins(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(workspace.root)
    require_room(study, workspace)
    monkeypatch.setattr(room, "free_bytes", lambda _: RESERVE_BYTES - 1)
    with pytest.raises(CannotWrite, match=r"0\.05 GB are free, but a night of study tiny may need"):
        require_room(study, workspace)


def test_the_disk_that_is_used_is_counted_by_part_without_following_links(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path)
    (workspace.mlruns / "artifacts" / "1").mkdir(parents=True)
    (workspace.mlruns / "artifacts" / "1" / "file").write_bytes(bytes(1000))
    (workspace.mlruns / "optuna.db").write_bytes(bytes(50))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big").write_bytes(bytes(10_000))
    link = workspace.mlruns / "link"
    link.symlink_to(outside)
    own = link.lstat().st_size
    assert disk_used(workspace) == {"artifacts": 1000, "link": own, "optuna.db": 50, "all": 1050 + own}
