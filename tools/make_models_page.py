"""Writes docs/models.md from the tables of architectures and published weights: python tools/make_models_page.py"""

from pathlib import Path

from keras_resnext.network.architectures import ARCHITECTURES, Architecture
from keras_resnext.network.costs import count_costs
from keras_resnext.preprocessing import Preprocessing
from keras_resnext.weights.published import PUBLISHED, PublishedWeights

PAGE = Path(__file__).parents[1] / "docs" / "models.md"

INTRODUCTION = f"""# Models

<!-- Written by tools/make_models_page.py; a test holds it to the tables. -->

{len(ARCHITECTURES)} architectures by the name that `create` takes, and {len(PUBLISHED)} published weights by the name
that `from_pretrained` takes. timm and mmpretrain write the same names without the source, torchvision writes
`ResNeXt50_32X4D_Weights.IMAGENET1K_V2`; both are understood too.

```python
import keras_resnext

model = keras_resnext.create("seresnext26t_32x4d", classes=10, input_shape=(64, 64, 3))
```

`weights="imagenet"` takes the most accurate weights of the architecture whose licence is free, at the size in the first
column of accuracies, and says on standard error which these are. A name with the test size behind it,
`timm/resnext50_32x4d.a1h_in1k@288`, prepares images for that size, wherever a model is named. Weights with another
licence, or none, are loaded by their full name alone.
"""


def render() -> str:
    """The whole page."""
    architectures = [
        "| name | parameters | GMACs | at | source |",
        "|---|---:|---:|---:|---|",
        *map(_architecture, ARCHITECTURES.values()),
    ]
    weights = [
        "| name | top-1 | top-5 | top-1 at the test size | GMACs | MB | classes | licence |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
        *map(_weights, PUBLISHED),
    ]
    about = (
        "Accuracies are the sources' own on ImageNet's validation set, in percent @ pixels. MB are of float32. Weights "
        "of 0 classes\nare backbones: a head that is asked for, `classes=10`, starts at random."
    )
    costs = "GMACs are multiply-accumulates of one image in billions, at this height and width in pixels."
    parts = [INTRODUCTION, "## Architectures\n", "\n".join(architectures), f"\n{costs}\n"]
    return "\n".join([*parts, "## Weights\n", "\n".join(weights), f"\n{about}\n"])


def _architecture(row: Architecture) -> str:
    macs = sum(cost.macs for cost in count_costs(row.structure, row.image_size)) / 1e9
    return f"| `{row.name}` | {row.parameters / 1e6:.1f} M | {macs:.2f} | {row.image_size} | {row.source} |"


def _weights(row: PublishedWeights) -> str:
    structure = ARCHITECTURES[row.architecture].structure
    costs = [cost for cost in count_costs(structure, row.preprocessing.size) if row.classes or cost.name != "head"]
    features = structure.outputs[-1]
    parameters = sum(cost.parameters for cost in costs)
    parameters += (row.classes - structure.classes) * (features + 1) if row.classes else 0
    macs = sum(cost.macs for cost in costs) / 1e9
    top5 = "" if row.top5 is None else f"{row.top5:.2f}"
    tested = _accuracy(row.test_top1, row.test_preprocessing)
    accuracies = f"{_accuracy(row.top1, row.preprocessing)} | {top5} | {tested}"
    size = f"{macs:.2f} | {parameters * 4 / 1e6:.0f} | {row.classes}"
    return f"| `{row.name}` | {accuracies} | {size} | {row.licence} |"


def _accuracy(top1: float | None, preprocessing: Preprocessing | None) -> str:
    return "" if top1 is None or preprocessing is None else f"{top1:.2f} @ {preprocessing.size}"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
