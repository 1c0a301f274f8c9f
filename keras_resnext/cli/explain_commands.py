"""The commands on what a model sees: explain, features."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from ..export.export_options import KIND, PREPROCESSING
from ..terminal import PlainConsole, printable
from .application import TRAINING, Images, Model, app, format_score, load_framework
from .from_fields import from_fields
from .image_files import check_files, distinct_stems, find_images

_IMAGE_SIZE = {"min": 1, "help": "Height and width, where the model leaves them free."}
_METHODS = ("grad_cam", "grad_cam++")


@dataclass(frozen=True)
class ExplainOptions:
    """What `explain` draws, and where."""

    output: Path = field(
        default=Path("explained"), metadata={"help": "Folder for the PNG files; made where it is missing."}
    )
    layer: str | None = field(
        default=None,
        metadata={"help": "Layer whose output is a map, such as layer3_0_relu; default the last one."},
    )
    class_: str | None = field(
        default=None,
        metadata={
            "name": "--class",
            "help": "Name or number of the class or label; default the highest score.",
        },
    )
    method: str = field(
        default="grad_cam",
        metadata={
            "choices": _METHODS, "help": "grad_cam, or grad_cam++, which shows all of several objects of a class.",
        },
    )  # fmt: skip
    feature_maps: bool = field(default=False, metadata={"help": "Also draw the strongest channels of the layer."})
    labels: Path | None = field(
        default=None,
        metadata={"help": "Text file with one class name a line; default labels.txt beside the model."},
    )
    image_size: int | None = field(default=None, metadata=_IMAGE_SIZE)
    preprocessing: str | None = field(default=None, metadata=PREPROCESSING)
    kind: str | None = field(default=None, metadata=KIND)


@dataclass(frozen=True)
class FeatureOptions:
    """Which features `features` writes, and where."""

    output: Path = field(default=Path("features.npy"), metadata={"help": "File for the features; ends in .npy."})
    layer: str | None = field(
        default=None,
        metadata={"help": "Layer whose map is averaged over its positions; default the input of the head."},
    )
    batch_size: int = field(default=8, metadata={"min": 1, "help": "Images that run together."})
    image_size: int | None = field(default=None, metadata=_IMAGE_SIZE)
    preprocessing: str | None = field(default=None, metadata=PREPROCESSING)


@app.command(rich_help_panel=TRAINING)
@from_fields
def explain(model: Model, images: Images, options: ExplainOptions) -> None:
    """Draw where a model looks: Grad-CAM over each image, as OUTPUT/IMAGE.grad_cam.png."""
    check_files(images)
    load_framework()
    from ..classifier import open_classifier
    from ..explain import explain_feature_maps, explain_image
    from ..labels import read_labels

    labels = read_labels(options.labels) if options.labels else None
    classifier = open_classifier(
        model, image_size=options.image_size, labels=labels, preprocessing=options.preprocessing, kind=options.kind
    )
    options.output.mkdir(parents=True, exist_ok=True)
    for image, stem in zip(images, distinct_stems(images), strict=True):
        path = options.output / f"{stem}.{options.method}.png"
        found = explain_image(
            classifier, image, path, layer=options.layer, class_index=options.class_, method=options.method
        )
        print(printable(f"{path}  {found.class_name} {format_score(found.score, classifier.kind)}  at {found.layer}"))
        if options.feature_maps:
            path = options.output / f"{stem}.feature_maps.png"
            channels = explain_feature_maps(
                classifier.model,
                image,
                path,
                layer=options.layer,
                image_size=classifier.size,
                preprocessing=options.preprocessing,
            )
            print(printable(f"{path}  strongest channels {', '.join(map(str, channels[:4]))}"))


@app.command(rich_help_panel=TRAINING)
@from_fields
def features(
    model: Model,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE_OR_FOLDER…", help="Images, and folders searched for images.")
    ],
    options: FeatureOptions,
) -> None:
    """Write the features of images for retrieval: an array (images, channels), and its images as a list.

    Row i of the float32 array belongs to line i of the text file beside it, of the same name but for .txt.
    """
    if options.output.suffix != ".npy":
        raise ValueError(f"output={str(options.output)!r} must end in .npy")
    if options.output.is_dir() or not options.output.parent.is_dir():
        what = "a folder, not a file" if options.output.is_dir() else "in a folder that does not exist"
        raise FileNotFoundError(f"output={str(options.output)!r} is {what}")
    files = find_images(images)
    for file in files:
        if len(str(file).splitlines()) != 1:
            raise ValueError(f"image={str(file)!r} must be a name of one line, for the list of images")
    load_framework()
    import numpy as np

    from ..explain import extract_features
    from ..files import placed_whole
    from ..loading import load_model
    from ..progress import track

    loaded = load_model(model)
    starts = range(0, len(files), options.batch_size)
    shown = track("Extracting features", starts, len(starts), PlainConsole(stderr=True))
    rows = [
        extract_features(
            loaded,
            files[start : start + options.batch_size],
            layer=options.layer,
            batch_size=options.batch_size,
            image_size=options.image_size,
            preprocessing=options.preprocessing,
        )
        for start in shown
    ]
    array, listing = np.concatenate(rows), options.output.with_suffix(".txt")
    with placed_whole(options.output) as aside, placed_whole(listing) as names:
        with open(aside, "wb") as opened:  # np.save would add .npy to any other name
            np.save(opened, array)
        names.write_bytes("".join(f"{path}\n" for path in files).encode("utf-8", "surrogateescape"))
    print(printable(f"{options.output}  {array.shape[0]} images, {array.shape[1]} features each; images in {listing}"))
