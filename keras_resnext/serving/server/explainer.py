"""Where a version looks: Grad-CAM from the Keras model that an export may keep beside its SavedModel."""

import asyncio
import base64
import io
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ...export.version_folder import KERAS_FILE
from ..model_base import read_manifest
from .image_checks import check_image
from .models import Version
from .servable import Servable
from .status import RequestError, invalid

if TYPE_CHECKING:
    from ...classifier import Classifier

KEPT = 2  # Keras models in memory
WAITING = 8  # explanations that may wait for one another


class Explainer:
    """Explains images, one at a time: a gradient takes as long as several predictions."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "explain")
        self._models: OrderedDict[Any, Classifier] = OrderedDict()
        self._waiting = 0

    def source(self, version: Version, servable: Servable | None) -> str | None:
        """What explanations of a version come from: "keras", or None where there are none."""
        return "keras" if servable is not None and (version.path / KERAS_FILE).is_file() else None

    async def explain(self, version: Version, servable: Servable, document: Mapping[str, Any]) -> dict[str, Any]:
        """The heat of one image.

        Args:
            version, servable: what is asked.
            document: as `read_explain_body` gives it: "image_bytes", and if wanted the name of a "layer" whose output
                is a map, the number of a "class", and the "method", "grad_cam" or "grad_cam++".

        Returns:
            `heat`, nested lists on 0..1; `layer` and the `layers` to choose from; `class` as index, name and score,
            and the `kind` of that score, as in `Classifier`; without a class asked for, that of the highest score;
            `image`, a PNG of what the model saw as {"b64": …}, over which the heat lies.

        Raises:
            RequestError: no explanations of this version, an image that is none, an unknown layer or class.
        """
        if self.source(version, servable) is None:
            raise RequestError(
                "FAILED_PRECONDITION",
                f"version {version.number} of {version.model} cannot be explained: it does not hold its Keras model, "
                f"{KERAS_FILE}; export it with --keras",
            )
        if self._waiting >= WAITING:
            raise RequestError("UNAVAILABLE", f"{WAITING} explanations wait already; try again later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._explain, version, dict(document))
        finally:
            self._waiting -= 1

    def _explain(self, version: Version, document: dict[str, Any]) -> dict[str, Any]:
        encoded = document["image_bytes"]
        check_image(encoded)  # Pillow would ask the decoders of all that it knows
        from ...explain import grad_cam
        from ...explain.probing import find_layer, list_maps

        classifier = self._classifier(version)
        model, method = classifier.model, document.get("method") or "grad_cam"
        try:
            pixels = classifier.read(encoded)
            scores = classifier.scores(pixels[None])[0]
            index = _class_index(document.get("class"), int(scores.argmax()), len(scores))
            layer = find_layer(model, document.get("layer") or None).name
            heat = grad_cam(model, classifier.prepare(pixels[None]), layer=layer, class_index=index, method=method)[0]
        except (ValueError, OSError) as error:
            raise invalid(str(error)) from None
        return {
            "source": "keras",
            "method": method,
            "kind": classifier.kind,
            "layer": layer,
            "layers": list_maps(model),
            "class": {"index": index, "name": classifier.names[index], "score": float(scores[index])},
            "image": {"b64": _png(pixels)},
            "heat": np.ascontiguousarray(heat),
        }

    def _classifier(self, version: Version) -> "Classifier":
        """The Keras model of a version as a classifier; in the pool's only thread."""
        key = (version.path, version.stamp)
        if key not in self._models:
            self._models[key] = _open(version)
            while len(self._models) > KEPT:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key]

    def close(self) -> None:
        self._pool.shutdown()


def _open(version: Version) -> "Classifier":
    from ...classifier import open_classifier
    from ...network.input_preprocessing import preprocessing_of

    manifest, file = read_manifest(version.path), version.path / "assets" / "labels.txt"
    size, recorded = manifest.get("image_size"), manifest.get("preprocessing")
    labels = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    try:
        found = open_classifier(
            version.path / KERAS_FILE,
            image_size=(int(size[0]), int(size[1])) if size else None,
            resize=recorded.get("resize") if isinstance(recorded, dict) else None,
            preprocessing=preprocessing_of(recorded) if isinstance(recorded, dict) else None,
            kind=manifest.get("kind"),
        )
        return open_classifier(found, labels=labels) if len(labels) == found.classes else found
    except (ValueError, OSError) as error:
        raise RequestError("FAILED_PRECONDITION", f"{KERAS_FILE}: {error}") from None


def _class_index(given: int | None, best: int, classes: int) -> int:
    if given is None:
        return best
    if not 0 <= given < classes:
        raise invalid(f"class={given!r:.50} must be an integer in 0..{classes - 1}")
    return given


def _png(pixels: np.ndarray[Any, Any]) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
