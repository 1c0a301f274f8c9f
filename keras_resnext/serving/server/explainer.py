"""Where a version looks: Grad-CAM from a signature of the SavedModel, or from the Keras model beside it."""

import asyncio
import base64
import io
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ...export.version_folder import KERAS_FILE
from ..model_base import read_manifest
from .models import Version
from .servable import Servable
from .status import RequestError, invalid
from .tensors import decode_base64

SIGNATURE = "grad_cam"  # `image_bytes` string (N,) to `heat` float32 (N, h, w) on 0..1
KEPT = 2  # Keras models in memory
WAITING = 8  # explanations that may wait for one another
FIELDS = ("image_bytes", "layer", "class", "method")


class Explainer:
    """Explains images, one at a time: a gradient takes as long as several predictions."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "explain")
        self._models: OrderedDict[Any, Any] = OrderedDict()
        self._waiting = 0

    def source(self, version: Version, servable: Servable | None) -> str | None:
        """What explanations of a version come from: "signature", "keras", or None where there are none."""
        if servable is None:
            return None
        if SIGNATURE in servable.signatures:
            return "signature"
        return "keras" if (version.path / KERAS_FILE).is_file() else None

    async def explain(self, version: Version, servable: Servable, document: Mapping[str, Any]) -> dict[str, Any]:
        """The heat of one image.

        Args:
            version, servable: what is asked.
            document: {"image_bytes": {"b64": …}}, and of a Keras model the name of a "layer" whose output is a map, the
                number of a "class", and the "method", "grad_cam" or "grad_cam++".

        Returns:
            `heat`, nested lists on 0..1; `layer` and the `layers` to choose from; `class` as index, name and score;
            `image`, a PNG of what the model saw as {"b64": …}, over which the heat lies.

        Raises:
            RequestError: no explanations of this version, an image that is none, an unknown layer or class.
        """
        source = self.source(version, servable)
        if source is None:
            raise RequestError(
                "FAILED_PRECONDITION",
                f"version {version.number} of {version.model} cannot be explained: it has neither a signature "
                f"{SIGNATURE!r} nor its Keras model in {KERAS_FILE}; export it with --keras",
            )
        if unknown := sorted(document.keys() - set(FIELDS)):
            raise invalid(f"{unknown[0]!r:.100} is no field of :explain; expected {', '.join(FIELDS)}")
        image = _read_image(document)
        for name in ("layer", "method"):
            if not isinstance(document.get(name, ""), str):
                raise invalid(f"{name!r} must be a text")
        if self._waiting >= WAITING:
            raise RequestError("UNAVAILABLE", f"{WAITING} explanations wait already; try again later")
        self._waiting += 1
        try:
            work = self._from_signature if source == "signature" else self._from_keras
            return await asyncio.get_running_loop().run_in_executor(
                self._pool, work, version, servable, image, dict(document)
            )
        finally:
            self._waiting -= 1

    def _from_signature(
        self, version: Version, servable: Servable, image: bytes, document: dict[str, Any]
    ) -> dict[str, Any]:
        for name in ("layer", "class", "method"):
            if document.get(name) not in (None, ""):
                raise invalid(f"{name!r} cannot be chosen: the signature {SIGNATURE!r} of this version fixes it")
        signature = servable.signature(SIGNATURE)
        data = np.empty(1, object)
        data[0] = image
        heat = servable.run(signature, dict.fromkeys(signature.inputs, data))["heat"][0]
        return {
            "source": "signature",
            "layers": [],
            "image": _seen_by_export(version, image),
            "heat": np.ascontiguousarray(heat, "float32"),
        }

    def _from_keras(
        self, version: Version, servable: Servable, encoded: bytes, document: dict[str, Any]
    ) -> dict[str, Any]:
        from ...explain import grad_cam
        from ...explain.probing import find_layer, list_maps
        from ...preprocessing import load_image, preprocess_input
        from ...runtimes.keras_model import softmax

        model, labels, image, logits, preprocessing = self._model(version)
        method = document.get("method") or "grad_cam"
        try:
            pixels = load_image(encoded, image["size"], resize=image["resize"], interpolation=image["interpolation"])
            images = preprocess_input(pixels[None], preprocessing)
            scores = np.asarray(model(images, training=False), "float32")
            scores = (softmax(scores) if logits else scores)[0]
            index = _class_index(document.get("class"), int(scores.argmax()), len(scores))
            layer = find_layer(model, document.get("layer") or None).name
            heat = grad_cam(model, images, layer=layer, class_index=index, method=method)[0]
        except (ValueError, OSError) as error:
            raise invalid(str(error)) from None
        name = labels[index] if index < len(labels) else str(index)
        return {
            "source": "keras",
            "method": method,
            "layer": layer,
            "layers": list_maps(model),
            "class": {"index": index, "name": name, "score": float(scores[index])},
            "image": {"b64": _png(pixels)},
            "heat": np.ascontiguousarray(heat),
        }

    def _model(self, version: Version) -> Any:
        """The Keras model of a version, its labels, and how its images are prepared; in the pool's only thread."""
        key = (version.path, version.stamp)
        if key not in self._models:
            self._models[key] = _load(version)
            while len(self._models) > KEPT:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key]

    def close(self) -> None:
        self._pool.shutdown()


def _seen_by_export(version: Version, image: bytes) -> dict[str, str] | None:
    """The image as an export says that it crops it; None where it says nothing."""
    from ...preprocessing import load_image

    manifest = read_manifest(version.path)
    size, recorded = manifest.get("image_size"), manifest.get("preprocessing")
    if not size or not isinstance(recorded, dict):
        return None
    try:
        height, width = map(int, size)
        pixels = load_image(image, (height, width), resize=recorded["resize"], interpolation=recorded["interpolation"])
    except (KeyError, TypeError, ValueError) as error:
        raise invalid(f"the image cannot be shown as the model sees it: {error}") from None
    return {"b64": _png(pixels)}


def _load(version: Version) -> Any:
    import keras

    from ...loading import load_model
    from ...network.input_preprocessing import get_preprocessing
    from ...runtimes.keras_model import check_classifier, last_activation

    try:
        model = load_model(version.path / KERAS_FILE)
        check_classifier(model)
    except (ValueError, OSError) as error:
        raise RequestError("FAILED_PRECONDITION", f"{KERAS_FILE}: {error}") from None
    labels = version.path / "assets" / "labels.txt"
    names = labels.read_text(encoding="utf-8", errors="replace").splitlines() if labels.is_file() else []
    preprocessing, manifest = get_preprocessing(model), read_manifest(version.path)
    recorded = manifest.get("preprocessing")
    size = manifest.get("image_size") or [side or preprocessing.size for side in model.inputs[0].shape[1:3]]
    resize = recorded.get("resize") if isinstance(recorded, dict) else None
    image = {
        "size": (int(size[0]), int(size[1])),
        "resize": resize or preprocessing.resize_for(min(size)),
        "interpolation": preprocessing.interpolation,
    }
    return model, names, image, last_activation(model) is keras.activations.linear, preprocessing


def _read_image(document: Mapping[str, Any]) -> bytes:
    given = document.get("image_bytes")
    text = given.get("b64") if isinstance(given, dict) else None
    if not isinstance(text, str):
        raise invalid('expected {"image_bytes": {"b64": "…"}}, the image\'s bytes in base64')
    data = decode_base64(text)
    if data is None:
        raise invalid("Unable to base64 decode")
    return data


def _class_index(given: Any, best: int, classes: int) -> int:
    if given is None:
        return best
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < classes:
        raise invalid(f"class={given!r:.50} must be an integer in 0..{classes - 1}")
    return given


def _png(pixels: np.ndarray[Any, Any]) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
