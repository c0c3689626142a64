"""Properties that every backbone has, whatever its architecture; each check takes one that was built for CLASSES."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fttune.config.freeze import Freeze
from fttune.freezing import apply_policy
from fttune.models import Architecture, Backbone

CLASSES = ("a", "b", "c")


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def tensors(part: nn.Module | nn.Parameter, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """A part's parameters and buffers by the names that the whole module gives them."""
    if isinstance(part, nn.Parameter):
        yield path, part
    else:
        yield from part.named_parameters(path)
        yield from part.named_buffers(path)


def check_stages_in_order(backbone: Backbone, side: int) -> None:
    """Stage by stage, bit for bit what the module itself computes; no stage writes into its input."""
    backbone.module.eval()
    with torch.no_grad():
        x = images(side)
        for stage in backbone.cut.stages:
            before = x.clone()
            output = backbone.run_stage(stage.name, x)
            assert torch.equal(x, before), f"{stage.name} changes its input"
            x = output
        logits = backbone.run_head(x)
        assert logits.isfinite().all()
        assert torch.equal(logits, backbone.module(images(side)))
        assert torch.equal(logits, backbone.outputs(images(side)).logits)


def check_new_head(backbone: Backbone, side: int) -> None:
    head = backbone.module.get_submodule(backbone.cut.head_path)
    assert isinstance(head, nn.Linear | nn.Conv2d)
    assert head.weight.shape[0] == len(CLASSES)
    assert backbone.head_is_new
    with torch.no_grad():
        assert backbone.module.eval()(images(side)).shape == (2, len(CLASSES))


def check_ownership(module: nn.Module, backbone: Backbone) -> None:
    """Every parameter and buffer in exactly one part, under its own name, and every dropout in some part."""
    owned = [name for part in backbone.parts().values() for path, p in part.items() for name, _ in tensors(p, path)]
    everything = [name for name, _ in tensors(module)]
    assert sorted(owned) == sorted(everything)
    modules = {
        id(m)
        for part in backbone.parts().values()
        for p in part.values()
        if isinstance(p, nn.Module)
        for m in p.modules()
    }
    dropouts = [name for name, m in module.named_modules() if isinstance(m, nn.Dropout) and id(m) not in modules]
    assert dropouts == []


def check_depths(backbone: Backbone) -> None:
    """At depth k the head and the last k stages have gradients, and nothing else."""
    parts = backbone.parts()
    names = list(parts)
    assert names[0] == "stem" and names[-1] == "head"
    for depth in (*range(len(names)), "all"):
        apply_policy(parts, Freeze(unfrozen_stages=depth))
        expected = set(names) if depth == "all" else set(names[len(names) - 1 - depth :])
        for name, part in parts.items():
            own = [t for path, p in part.items() for _, t in tensors(p, path) if isinstance(t, nn.Parameter)]
            assert all(parameter.requires_grad == (name in expected) for parameter in own), (depth, name)


def check_two_steps(backbone: Backbone, side: int, *, depth: int) -> None:
    """After two updates at this depth, exactly the expected tensors changed.

    Weight decay moves a tensor whose gradient happens to be zero, so none may be zero itself; blocks are never skipped.
    """
    module, parts = backbone.module, backbone.parts()
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        if parameter.ndim < 2 or not parameter.any():
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    for child in module.modules():
        for probability in ("p", "drop_prob"):
            if type(child).__name__ in ("StochasticDepth", "DropPath") and hasattr(child, probability):
                setattr(child, probability, 0.0)
    freezing = apply_policy(parts, Freeze(unfrozen_stages=depth))
    before = {name: tensor.detach().clone() for name, tensor in tensors(module)}
    _train(backbone, freezing.train_mode, side)
    trained = list(parts)[len(parts) - 1 - depth :]
    moving = {name for part in trained for path, p in parts[part].items() for name in _moving(p, path)}
    changed = {name for name, tensor in tensors(module) if not torch.equal(tensor, before[name])}
    assert changed == moving, changed ^ moving


def _moving(part: nn.Module | nn.Parameter, path: str) -> Iterator[str]:
    if isinstance(part, nn.Parameter):
        yield path
        return
    yield from (name for name, _ in part.named_parameters(path))
    for name, child in part.named_modules(prefix=path):
        if isinstance(child, _BatchNorm) and child.track_running_stats:
            yield from (f"{name}.{buffer}" for buffer in ("running_mean", "running_var", "num_batches_tracked"))


def _train(backbone: Backbone, train_mode, side: int) -> None:
    optimizer = torch.optim.SGD(backbone.module.parameters(), lr=0.01, weight_decay=0.1)
    backbone.module.train()
    train_mode()
    torch.manual_seed(0)
    for _ in range(2):
        outputs = backbone.outputs(images(side))
        labels = torch.tensor([0, 2])
        loss = nn.functional.cross_entropy(outputs.logits, labels)
        for weight, logits in outputs.auxiliary.values():
            loss = loss + weight * nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(backbone.module.parameters(), 1.0)  # random nets of this depth explode
        optimizer.step()


def sketched(architecture: Architecture) -> Backbone:
    """The architecture without storage: names and shapes only."""
    module = architecture.sketch()
    return Backbone(architecture.name, module, architecture.cut(module), head_is_new=False)
