"""Named policies: each is a filled-in `freeze` section that could have been written out, and nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ULMFIT_DECAY = 1 / 2.6


@dataclass(frozen=True)
class Room:
    """What a preset may depend on: the number of stages, the epochs of the run, and `freeze.k`."""

    stages: int
    epochs: int
    k: int = 1


def _gradual(room: Room) -> Mapping[str, Any]:
    """Unfreeze from the output, evenly over the run; with fewer epochs than depths, some depths are passed over."""
    count = min(room.stages + 1, room.epochs)
    depths = [room.stages * i // max(count - 1, 1) for i in range(count)]
    borders = [room.epochs * i // count for i in range(count + 1)]
    phases = [
        {"unfrozen_stages": depth, "epochs": end - start}
        for depth, start, end in zip(depths, borders[:-1], borders[1:], strict=True)
    ]
    return {"phases": phases, "layer_decay": ULMFIT_DECAY}


def _lp_ft(room: Room) -> Mapping[str, Any]:
    probe = {"unfrozen_stages": 0, "epochs": max(room.epochs // 2, 1)}
    tuning = {"unfrozen_stages": "all", "epochs": room.epochs - room.epochs // 2, "lr_mult": 0.1}
    return {"phases": [probe, tuning]}


PRESETS: Mapping[str, Callable[[Room], Mapping[str, Any]]] = {
    "head_only": lambda _: {"unfrozen_stages": 0},  # linear probe
    "full": lambda _: {"unfrozen_stages": "all"},
    "last_k": lambda room: {"train": {"last": room.k}},  # Yosinski et al., NeurIPS 2014, arXiv 1411.1792
    "first_k": lambda room: {"train": {"first": room.k}},
    "surgical": lambda room: {"train": {"window": [room.k, room.k]}},  # Lee et al., ICLR 2023, arXiv 2210.11466
    "norm_only": lambda _: {"train": {"params": "norm"}},  # Frankle et al., ICLR 2021, arXiv 2003.00152
    "bias_only": lambda _: {"train": {"params": "bias"}},  # BitFit, Ben Zaken et al., ACL 2022, arXiv 2106.10199
    "gradual": _gradual,  # ULMFiT, Howard & Ruder, ACL 2018, arXiv 1801.06146
    "lp_ft": _lp_ft,  # Kumar et al., ICLR 2022, arXiv 2202.10054
    "layerwise": lambda _: {"unfrozen_stages": "all", "layer_decay": 0.75},  # BEiT, Bao et al., arXiv 2106.08254
    "freeze_stem": lambda room: {"train": {"last": room.stages - 1}},
    "auto_rgn": lambda _: {"auto": "rgn"},  # Lee et al., ICLR 2023
    "auto_snr": lambda _: {"auto": "snr"},  # Lee et al., ICLR 2023
    "autofreeze": lambda _: {"auto": "autofreeze"},  # Liu et al. 2021, arXiv 2102.01386
    "lora": lambda _: {  # Hu et al., ICLR 2022, arXiv 2106.09685
        "unfrozen_stages": "all",
        "adapter": {"lora": {"rank": 8, "alpha": 16.0}},
        "norm_stats": "all_frozen",
    },
    "l2_sp": lambda _: {"unfrozen_stages": "all", "penalty": {"l2_sp": 0.1}},  # Li et al., ICML 2018, arXiv 1802.01483
}
PRESETS_WITH_K = ("last_k", "first_k", "surgical")
