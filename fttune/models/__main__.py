"""`python -m fttune.models > fttune/config/backbones.json`: write what the torch-free rooms know of the backbones."""

import json
import sys

import torchvision

from fttune.models.families import BY_NAME, OWN_BUILDERS


def known_backbones() -> str:
    """Return the JSON document: name -> stages from input to output, and the weights that torchvision publishes."""
    lines = []
    for name, family in sorted(BY_NAME.items()):
        published = [] if name in OWN_BUILDERS else [w.name for w in torchvision.models.get_model_weights(name)]
        entry = {"stages": [stage.name for stage in family.stages], "weights": published}
        lines.append(f"  {json.dumps(name)}: {json.dumps(entry)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    sys.stdout.write(known_backbones())
