"""What the REST and the gRPC client of TF Serving have in common: all but how a request travels."""

import io
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from ...export.image_formats import is_listed
from .errors import ServingError, ServingTimeoutError, with_retries
from .metadata import Metadata, Signature, VersionStatus, parse_metadata, parse_status

Array = np.ndarray[Any, Any]
Image = str | os.PathLike[str] | bytes  # the path of an encoded image, or its bytes
Self = TypeVar("Self", bound="BaseClient")

PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
# What a server answers before a model is there.
NOT_YET = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "NOT_FOUND", "DEADLINE_EXCEEDED"}
POLL = 0.25  # seconds between two looks at the status


@dataclass(eq=False, repr=False)
class BaseClient(ABC):
    """The methods of both clients, and their arguments, which `Client` describes.

    Every call ends within `timeout` seconds, its further attempts included.
    """

    address: str
    model: str
    _: KW_ONLY
    version: int | None = None
    label: str | None = None
    timeout: float = 10.0
    retries: int = 4
    headers: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for name, text in (("model", self.model), ("label", self.label)):
            if text is not None and not (isinstance(text, str) and re.fullmatch(r"[^/:]+", text)):
                raise ValueError(f"{name}={text!r} must be a name without / and :")
        for name, number in (("version", 0 if self.version is None else self.version), ("retries", self.retries)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise ValueError(f"{name}={number!r} must be an integer of at least 0")
        if self.version is not None and self.label is not None:
            raise ValueError(f"version={self.version!r} and label={self.label!r}: give one of them")
        if not 0 < self.timeout < float("inf"):
            raise ValueError(f"timeout={self.timeout!r} must be positive seconds")
        self._headers = dict(self.headers or {})
        self._signatures: dict[str, Signature] = {}

    def predict(self, images: Any, signature_name: str = "serving_default") -> dict[str, Array]:
        """Runs images that are arrays already.

        Args:
            images: array-like (N, height, width, 3) of the size that the model takes, RGB 0..255, N ≥ 1. Whole numbers
                (uint8) make REST's requests several times smaller than fractions do.
            signature_name: a signature with one numeric input.

        Returns:
            The outputs by name; for `serving_default`: `probabilities` (N, classes).

        Raises:
            ValueError: no such array, or no such signature.
            ServingError: the server refused it, failed or was not there.
            ServingTimeoutError: no answer within `timeout` seconds.
        """
        array = np.asarray(images)
        if array.dtype.kind not in "uif" or array.ndim != 4 or array.shape[-1] != 3 or not array.size:
            raise ValueError(
                f"images of shape {array.shape} and type {array.dtype} must be numbers of shape (N, height, width, 3), "
                "N ≥ 1; for one image give image[None]"
            )
        return self._predict(array, signature_name)

    def predict_images(self, images: Sequence[Image], signature_name: str = "serving_bytes") -> dict[str, Array]:
        """Classifies encoded images of any size; the server decodes them.

        Exports decode JPEG, PNG, GIF (first frame) and BMP. What else Pillow reads, WebP and TIFF among it, is sent as
        PNG.

        Args:
            images: N ≥ 1 paths, bytes, or both.
            signature_name: a signature with one string input.

        Returns:
            `probabilities` (N, classes), and best first `top_scores`, `top_classes` and `top_labels` (N, k).

        Raises:
            OSError: a file that cannot be read.
            ServingError: as of `predict`; one broken image fails the whole request, with the code "INVALID_ARGUMENT".
            ValueError, ServingTimeoutError: as of `predict`.
        """
        data = _read_images(images)
        array = np.empty(len(data), object)
        array[:] = data
        return self._predict(array, signature_name)

    def classify(self, images: Sequence[Image], signature_name: str = "classify") -> list[list[tuple[str, float]]]:
        """The best classes of each encoded image, as (label, score), best first, through TF Serving's Classify.

        Arguments and errors are those of `predict_images`. Each image travels as `image/encoded` in a tf.Example.
        """
        data = _read_images(images)
        return self._retry(lambda left: self._send_classify(signature_name, data, left))

    def features(self, images: Any) -> Array:
        """The pooled features (N, channels) of `images` as in `predict`, by the signature `features`."""
        return self.predict(images, "features")["features"]

    def metadata(self) -> Metadata:
        """The version that answers, and its signatures."""
        return self._metadata(time.monotonic() + self.timeout)

    def status(self) -> list[VersionStatus]:
        """The state of `version`, or of all versions of the model; TF Serving disregards labels here.

        Raises:
            ServingError: code "NOT_FOUND" where the server knows no such model or version.
        """
        return self._retry(lambda left: parse_status(self._fetch_status(left), self.address))

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Returns as soon as the version asked for (by default any) is AVAILABLE; a label must point to a version.

        Raises:
            ServingTimeoutError: it was not within `timeout` seconds; the message says what was there instead.
            ServingError: an answer that waiting does not change, such as "PERMISSION_DENIED".
        """
        deadline = time.monotonic() + timeout
        seen = "nothing"
        while (left := deadline - time.monotonic()) > 0:
            try:
                states = parse_status(self._fetch_status(min(left, self.timeout)), self.address)
                if any(state.state == "AVAILABLE" for state in states):
                    if self.label is not None:  # of which the status says nothing
                        self._fetch_metadata(min(left, self.timeout))
                    return
                seen = ", ".join(f"version {s.version} {s.state} {s.error}".rstrip() for s in states)
            except ServingError as error:
                # TF Serving calls a label that points nowhere yet an invalid argument.
                if error.code not in NOT_YET and (self.label is None or error.code != "INVALID_ARGUMENT"):
                    raise
                seen = f"{error.code}: {error.message}"
            time.sleep(max(min(POLL, deadline - time.monotonic()), 0))
        text = f"model {self.model!r} was not ready within {timeout:g} s; last seen: {seen}"
        raise ServingTimeoutError(self.address, message=text)

    def close(self) -> None:  # noqa: B027  (REST keeps none)
        """Frees the connection, where the client keeps one."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _send_predict(self, name: str, signature: Signature, values: Array, timeout: float) -> dict[str, Array]:
        """`values` (of type object for bytes) to the outputs of the signature called `name`; strings as str."""

    @abstractmethod
    def _send_classify(self, name: str, images: list[bytes], timeout: float) -> list[list[tuple[str, float]]]:
        """Encoded images to (label, score) each."""

    @abstractmethod
    def _fetch_metadata(self, timeout: float) -> dict[str, Any]:
        """GetModelMetadataResponse as REST gives it in JSON."""

    @abstractmethod
    def _fetch_status(self, timeout: float) -> dict[str, Any]:
        """GetModelStatusResponse as REST gives it in JSON."""

    def _predict(self, values: Array, signature_name: str) -> dict[str, Array]:
        deadline = time.monotonic() + self.timeout
        # Answers leave out the name of a single output, and the types of all: the metadata tells both. It is asked for
        # once, and again where the values do not fit: another version may be served by now.
        try:
            signature = _fitting_signature(self._signatures, signature_name, values)
        except ValueError:
            self._signatures = signatures = self._metadata(deadline).signatures
            signature = _fitting_signature(signatures, signature_name, values)
        try:
            return self._retry(lambda left: self._send_predict(signature_name, signature, values, left), deadline)
        except ServingError:
            self._signatures = {}  # another version may be served by now
            raise

    def _metadata(self, deadline: float) -> Metadata:
        return self._retry(lambda left: parse_metadata(self._fetch_metadata(left), self.address), deadline)

    def _retry(self, attempt: Any, deadline: float | None = None) -> Any:
        deadline = time.monotonic() + self.timeout if deadline is None else deadline
        return with_retries(attempt, address=self.address, deadline=deadline, retries=self.retries)


def _read_images(images: Sequence[Image]) -> list[bytes]:
    if isinstance(images, str | bytes | os.PathLike) or not len(images):
        raise ValueError(f"images={images!r:.100} must be a list of at least one path or bytes object")
    return [_sendable(data if isinstance(data, bytes) else Path(data).read_bytes()) for data in images]


def _sendable(data: bytes) -> bytes:
    """The bytes of a format that exports decode: Pillow, if installed, converts others to PNG.

    EXIF is kept, because the model decides whether images are turned upright.
    """
    if is_listed(data):
        return data
    try:
        from PIL import Image

        with Image.open(io.BytesIO(data)) as image:
            stream, exif = io.BytesIO(), image.getexif()
            (image if image.mode in PNG_MODES else image.convert("RGB")).save(stream, "PNG", exif=exif)
            return stream.getvalue()
    except Exception:  # no Pillow, or anything at all that it raises on broken files: the server says what is wrong
        return data


def _fitting_signature(signatures: dict[str, Signature], name: str, values: Array) -> Signature:
    if name not in signatures:
        raise ValueError(f"signature_name={name!r} must be one of {', '.join(sorted(signatures))}")
    signature = signatures[name]
    if len(signature.inputs) != 1:
        raise ValueError(f"signature_name={name!r} takes {', '.join(sorted(signature.inputs))}; it must take one input")
    (info,) = signature.inputs.values()
    strings = values.dtype == object
    if strings != (info.dtype == "string"):
        fitting = "predict" if strings else "predict_images or classify"
        raise ValueError(f"signature_name={name!r} takes {info.dtype}: call {fitting}")
    if not strings and not np.can_cast(values.dtype, info.dtype, "same_kind"):
        raise ValueError(f"images of type {values.dtype} must be {info.dtype}, which signature_name={name!r} takes")
    # TensorFlow's session does not check it: a convolutional network would quietly answer for another size.
    if info.shape is not None and not (
        len(info.shape) == values.ndim
        and all(wanted in (None, size) for wanted, size in zip(info.shape, values.shape, strict=True))
    ):
        shape = ", ".join("N" if size is None else str(size) for size in info.shape)
        raise ValueError(f"images of shape {values.shape} must be ({shape}), which signature_name={name!r} takes")
    return signature
