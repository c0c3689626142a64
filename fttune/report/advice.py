"""What a trial's setting means as an instruction."""

from fttune.report.findings import COUNTED, Findings
from fttune.report.table import Setting

HEAD_ALONE, ALL = "0", "all"


def advice(depth: str | None, findings: Findings) -> str | None:
    """Return what a depth means as an instruction, None when nothing of it is known."""
    if depth is None:
        return None
    if findings.depth_field not in (None, COUNTED):
        return f"set {findings.depth_field} to {depth}"
    if depth == HEAD_ALONE:
        return "train the head alone (no unfrozen stage)"
    if depth == ALL or depth == str(findings.stages):
        return f"unfreeze all {findings.stages} stages" if findings.stages else "unfreeze all stages"
    return f"unfreeze the last {depth} of {findings.stages} stages" if findings.stages else f"unfreeze {depth} stages"


def rates(setting: Setting) -> str:
    """Return the rates that a trial trained with."""
    named = {"lr": setting.lr, "momentum": setting.momentum}
    said = [f"{name} {value:.3g}" for name, value in named.items() if value is not None]
    elr = f", an effective lr of {setting.elr:.3g}" if setting.elr is not None and setting.momentum else ""
    return " and ".join(said) + elr
