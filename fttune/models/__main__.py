"""`python -m fttune.models > fttune/config/backbones.json`: write what the torch-free rooms know of the backbones."""

import json
import sys

import torchvision

from fttune.models.architectures import find_architecture
from fttune.models.families import BY_NAME, OWN_BUILDERS
from fttune.models.sizes import sizes


def known_backbones() -> str:
    """Return the JSON document: name -> parameters of each stage from the input on, of the whole, and its weights.

    The whole has the original head of 1000 classes, as torchvision builds it (the small net: 10).
    """
    lines = []
    for name in sorted(BY_NAME):
        stages, total = sizes(find_architecture(name))
        members = [] if name in OWN_BUILDERS else torchvision.models.get_model_weights(name)
        published = [w.name for w in members if w.meta["categories"]]  # VGG-16's FEATURES lack the classifier
        entry = {"stages": stages, "parameters": total, "weights": published}
        lines.append(f"  {json.dumps(name)}: {json.dumps(entry)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    sys.stdout.write(known_backbones())
