"""What the config.json of a .keras file may name: Keras's harmless layers, this package's, and the caller's own.

Keras itself imports any module of its own that a config names, and has layers that read files or run code. So it gets
nothing that is not on these lists. A class counts as the caller's where it is registered in this process
(`keras.saving.register_keras_serializable`, `keras.saving.custom_object_scope`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

MAX_DEPTH = 150  # dictionaries and lists inside one another; a model inside a model adds six
MAX_OBJECTS = 100_000  # of a ResNeXt-101 1,600
MAX_LAYERS = 5_000  # each takes milliseconds to build; NASNetLarge has 1,041
MAX_SEQUENTIAL = 50_000  # sum of the squares of their lengths: Keras builds one anew with each layer
MAX_OUTPUTS = 4_096  # of one operation
LEAST_SIZE = 1 << 16  # numbers up to this are no reason for doubt, however small the weights


# Without Lambda, TFSMLayer, TorchModuleWrapper, JaxLayer and FlaxLayer, which run code; StringLookup, IntegerLookup and
# TextVectorization, which read files; and the layers of sound, which compute tables as large as the config says.
def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LAYERS = _words("""
    Activation ActivityRegularization Add AdditiveAttention AlphaDropout Attention AugMix AutoContrast Average
    BatchNormalization Bidirectional CategoryEncoding CenterCrop Concatenate CutMix Dense Discretization Dot Dropout ELU
    EinsumDense Embedding Equalization Flatten GRU GRUCell GaussianDropout GaussianNoise GroupNormalization
    GroupQueryAttention GroupedQueryAttention Hashing Identity InputLayer LSTM LSTMCell LayerNormalization LeakyReLU
    Masking MaxNumBoundingBoxes Maximum Minimum MixUp MultiHeadAttention Multiply Normalization PReLU Permute Pipeline
    RMSNormalization RNN RandAugment ReLU RepeatVector Rescaling Reshape Resizing ReversibleEmbedding SimpleRNN
    SimpleRNNCell Softmax Solarization SpectralNormalization StackedRNNCells Subtract TimeDistributed UnitNormalization
    ContrastLimitedAdaptiveHistogramEqualization HashedCrossing InputSpec DepthwiseConv1D DepthwiseConv2D
    RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop RandomElasticTransform
    RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective
    RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom
""")
_LAYERS_OF_DIMENSIONS = _words("""
    AdaptiveAveragePooling#D AdaptiveMaxPooling#D AveragePooling#D AvgPool#D Conv#D Conv#DTranspose ConvLSTM#D
    Convolution#D Convolution#DTranspose Cropping#D GlobalAveragePooling#D GlobalAvgPool#D GlobalMaxPool#D
    GlobalMaxPooling#D MaxPool#D MaxPooling#D SeparableConv#D SeparableConvolution#D SpatialDropout#D UpSampling#D
    ZeroPadding#D
""")
_ACTIVATIONS = _words("""
    celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu linear log_sigmoid
    log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus softsign sparse_plus sparse_sigmoid
    sparsemax squareplus swish tanh tanh_shrink threshold
""")
_INITIALIZERS = _words("""
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity IdentityInitializer LecunNormal LecunUniform Ones
    Orthogonal OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
""")
_POLICIES = _words("DTypePolicy DTypePolicyMap FloatDTypePolicy QuantizedDTypePolicy QuantizedFloat8DTypePolicy")
_MODELS = _words("Model Sequential Functional")

_BY_MODULE: dict[str, frozenset[str]] = {
    "keras.layers": _LAYERS | {name.replace("#", digit) for name in _LAYERS_OF_DIMENSIONS for digit in "123"},
    "keras.initializers": _INITIALIZERS,
    "keras.regularizers": _words("L1 L1L2 L2 OrthogonalRegularizer"),
    "keras.constraints": _words("MaxNorm MinMaxNorm NonNeg UnitNorm"),
    "keras.dtype_policies": _POLICIES,
    "keras.random": frozenset(["SeedGenerator"]),
    "keras.models": _MODELS,
    "keras.src.models.functional": frozenset(["Functional"]),
    "keras.src.models.sequential": frozenset(["Sequential"]),
    "keras.src.models.model": frozenset(["Model"]),
    "keras.src.applications.convnext": _words("LayerScale StochasticDepth"),
    "keras.src.ops.core": _words("Cast SaturateCast ConvertToTensor StopGradient Slice SliceUpdate ScatterUpdate"),
    "keras": _MODELS | _POLICIES,
}
# Operations of keras.ops between layers, x + 1 for one. Of keras.src.ops.core most call functions.
_OPERATIONS = tuple(f"keras.src.ops.{name}" for name in ("numpy", "nn", "math", "linalg", "image", "einops"))
_PARTS = ("keras.initializers", "keras.regularizers", "keras.constraints", "keras.dtype_policies", "keras")
_ANYWHERE = frozenset[str]().union(*_BY_MODULE.values())  # configs of Keras 2 give no module
_PLAIN = _words("__keras_tensor__ __tensor__ __numpy__ __bytes__ __ellipsis__ __slice__")
_DTYPES = frozenset(
    ["bool", "string", "float16", "bfloat16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
# Numbers under these names are no sizes.
_NO_SIZES = _words("seed shared_object_id value mean variance bin_boundaries epsilon salt mask_value")

Registered = Callable[[str], Any]


def check_config(config: dict[str, Any], weights: int, registered: Registered) -> dict[str, Any]:
    """The config without what training needs (`compile_config`), once all that it names is known to be harmless.

    Args:
        config: as in config.json, nothing else than JSON.
        weights: numbers in the weights file; a size beyond that cannot be one of this model.
        registered: what `keras.saving.get_registered_object` gives for a name, None for nothing.

    Raises:
        ValueError: a class or function that is not allowed, a size that cannot be, or too much of either.
    """
    most = max(weights, LEAST_SIZE)
    kept: dict[str, Any] = {}
    waiting: list[tuple[Any, Any, str, int]] = [(config, kept, "", 0)]
    objects = layers = sequential = 0
    while waiting:
        value, copy, within, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"config.json is nested more than {MAX_DEPTH} deep")
        if isinstance(value, dict):
            objects += 1
            if "class_name" in value:
                _check_object(value, registered)
                layers += _is_layer(value)
                sequential += _length(value) ** 2
            elif "registered_name" in value or ("module" in value and "config" in value):
                raise ValueError(f"config.json has an object without a class: {str(value)[:80]}")
            items: Any = ((key, item) for key, item in value.items() if not _is_for_training(key, value))
        else:
            items = enumerate(value)
        for key, item in items:
            name = key if isinstance(key, str) else within
            is_nested = isinstance(item, dict | list)
            fresh: Any = {} if isinstance(item, dict) else [] if isinstance(item, list) else item
            if isinstance(copy, dict):
                copy[key] = fresh
            else:
                copy.append(fresh)
            if is_nested:
                waiting.append((item, fresh, name, depth + 1))
            elif type(item) is int and abs(item) > most and name not in _NO_SIZES:
                raise ValueError(f"config.json says {name}={item}, but the weights file holds {weights} numbers")
            elif (name == "unroll" and item) or (name == "indices_or_sections" and item > MAX_OUTPUTS):
                raise ValueError(f"config.json says {name}={item}, which may take for ever to build")
        if sequential > MAX_SEQUENTIAL:
            raise ValueError("config.json has a Sequential of too many layers, which would take for ever to build")
        if objects > MAX_OBJECTS or layers > MAX_LAYERS:
            raise ValueError(f"config.json has more than {MAX_LAYERS} layers or {MAX_OBJECTS} objects")
    return kept


def _is_for_training(key: str, value: dict[str, Any]) -> bool:
    return key == "compile_config" and "class_name" in value


def _is_layer(value: dict[str, Any]) -> bool:
    return value["class_name"] not in _PLAIN and value.get("module") not in _PARTS


def _length(value: dict[str, Any]) -> int:
    """How many layers a Sequential has; 0 for anything else."""
    inner = value.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else inner
    return len(layers) if value["class_name"] == "Sequential" and isinstance(layers, list) else 0


def names_own_classes(config: Any, registered: Registered) -> bool:
    """Whether a checked config has classes of the caller's, whose variables may be made in any way."""
    return any(
        name and not name.startswith("keras_resnext>") and registered(name) is not None
        for value in _dictionaries(config)
        if isinstance(name := value.get("registered_name", value.get("class_name")), str)
    )


def with_registered(config: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """A copy in which Keras takes what is registered under the name of its class `kind`; None where it has none."""
    copy: dict[str, Any] = json.loads(json.dumps(config))
    found = [value for value in _dictionaries(copy) if value.get("class_name") == kind]
    for value in found:
        value["registered_name"] = kind
    return copy if found else None


def _dictionaries(config: Any) -> Iterator[dict[str, Any]]:
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _check_object(value: dict[str, Any], registered: Registered) -> None:
    """Raises ValueError unless Keras finds something harmless under these names. It looks for registered ones first."""
    kind, module, inner = value["class_name"], value.get("module"), value.get("config")
    is_function = kind == "function"
    name = inner if is_function else kind
    known_as = name if is_function else value.get("registered_name", kind)
    if not isinstance(name, str) or not isinstance(module, str | None) or not isinstance(known_as, str | None):
        raise ValueError(f"config.json has an object whose names are no texts: {str(value)[:80]}")
    if name in _PLAIN and not is_function:
        dtype = inner.get("dtype", "float32") if isinstance(inner, dict) else "float32"
        if dtype not in _DTYPES:
            raise ValueError(f"config.json has numbers of type {str(dtype)[:40]!r}")
        return
    found = registered(known_as) if known_as else None
    # Keras finds a config without a module by its class alone, whatever is registered.
    if found is not None and name in (known_as, getattr(found, "__name__", None)):
        return
    if is_function:
        allowed = name in _ACTIVATIONS and module in (None, "builtins", "keras.activations")
    elif module is None:
        allowed = name in _ANYWHERE
    elif module in _OPERATIONS:
        allowed = name.isidentifier() and name[0].isupper()
    else:
        allowed = name in _BY_MODULE.get(module, ())
    if not allowed:
        shown = ".".join(filter(None, (module, name)))
        raise ValueError(
            f"{shown[:200]!r} in its config.json is not allowed: it could run code or read files. If it is your own, "
            "register it before loading (keras.saving.register_keras_serializable); if you trust the file, "
            "open it with keras.saving.load_model yourself"
        )
