"""How libraries name the parts of one network: what shows its first block, and the way to torchvision's names."""

import re
from collections.abc import Callable

Replacement = str | Callable[[re.Match[str]], str]

# Wrappers that stand anywhere in a name: torch.compile, FSDP (PyTorch's and fairscale's), activation checkpointing,
# and DistributedDataParallel around a stage or a block.
INNER = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module)\.|(?<=[0-9]\.)module\."
)

# How the first block shows itself; what stands before it is the prefix. Of positions in a Sequential, the first number
# is the index of the first stage.
MARKS = {
    "named": re.compile(
        r"(?:(?<=\.)|^)(?:layer1\.0\.conv[123](?:\.conv)?|stages\.0\.0\.conv[123]_(?:1x1|kxk)\.conv)\.weight$"
    ),
    "detectron2": re.compile(r"(?:(?<=\.)|^)res2\.0\.conv[123]\.weight$"),
    "transformers": re.compile(r"(?:(?<=\.)|^)encoder\.stages\.0\.layers\.0\.layer\.[012]\.convolution\.weight$"),
    "pytorchcv": re.compile(r"(?:(?<=\.)|^)stage1\.unit1\.body\.conv[123]\.conv\.weight$"),
    "cifar": re.compile(r"(?:(?<=\.)|^)stage_1\.(?:stage_1_bottleneck_)?0\.conv_(?:reduce|conv|expand)\.weight$"),
    "torch7": re.compile(r"(?:(?<=\.)|^)4\.0\.0\.0\.0\.[03]\.weight$"),
    "positions": re.compile(r"(?:(?<=\.)|^)(\d{1,2})\.0\.conv[123]\.weight$"),
}
MARK_LENGTH = 60  # characters of the longest mark, which is looked for at the end of a name alone
MAX_STAGES = 4

_RULES: dict[str, tuple[tuple[re.Pattern[str], Replacement], ...]] = {
    kind: tuple((re.compile(pattern), replacement) for pattern, replacement in rules)
    for kind, rules in {
        # A stem that is a module of its own; PSPNet's is a Sequential. timm's byobnet has more in stem.conv1.
        "named": (
            (r"^stem\.(?=(?:conv1|bn1)\.[a-z_]+$)", ""),
            (r"^layer0\.0\.", "conv1."),
            (r"^layer0\.1\.", "bn1."),
        ),
        "detectron2": (
            (r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}."),
            (r"^stem\.conv1\.norm\.", "bn1."),
            (r"^stem\.conv1\.", "conv1."),
            (r"^(layer\d\.\d+)\.conv(\d)\.norm\.", r"\1.bn\2."),
            (r"^(layer\d\.\d+)\.shortcut\.norm\.", r"\1.downsample.1."),
            (r"^(layer\d\.\d+)\.shortcut\.", r"\1.downsample.0."),
        ),
        "transformers": (  # transformers/models/resnet/modeling_resnet.py
            (r"^embedder\.embedder\.convolution\.", "conv1."),
            (r"^embedder\.embedder\.normalization\.", "bn1."),
            (r"^encoder\.stages\.(\d)\.layers\.(\d+)\.", lambda match: f"layer{int(match[1]) + 1}.{match[2]}."),
            (r"^(layer\d\.\d+)\.layer\.(\d)\.convolution\.", lambda match: f"{match[1]}.conv{int(match[2]) + 1}."),
            (r"^(layer\d\.\d+)\.layer\.(\d)\.normalization\.", lambda match: f"{match[1]}.bn{int(match[2]) + 1}."),
            (r"^(layer\d\.\d+)\.shortcut\.convolution\.", r"\1.downsample.0."),
            (r"^(layer\d\.\d+)\.shortcut\.normalization\.", r"\1.downsample.1."),
        ),
        "pytorchcv": (  # its networks for CIFAR have a stem without the second conv
            (r"^init_block\.(?:conv\.)?bn\.", "bn1."),
            (r"^init_block\.(?:conv\.)?conv\.", "conv1."),
            (r"^stage(\d)\.unit(\d+)\.", lambda match: f"layer{match[1]}.{int(match[2]) - 1}."),
            (r"\.body\.conv(\d)\.conv\.", r".conv\1."),
            (r"\.body\.conv(\d)\.bn\.", r".bn\1."),
            (r"\.identity_conv\.conv\.", ".downsample.0."),
            (r"\.identity_conv\.bn\.", ".downsample.1."),
        ),
        "cifar": (  # prlz77/ResNeXt.pytorch, and without the longer names xternalz's and AugMix's
            (r"^conv_1_3x3\.", "conv1."),
            (r"^bn_1\.", "bn1."),
            (r"^stage_(\d)\.(?:stage_\d_bottleneck_)?(\d+)\.", r"layer\1.\2."),
            (r"\.conv_reduce\.", ".conv1."),
            (r"\.bn_reduce\.", ".bn1."),
            (r"\.conv_conv\.", ".conv2."),
            (r"^(layer\d\.\d+)\.bn\.", r"\1.bn2."),
            (r"\.conv_expand\.", ".conv3."),
            (r"\.bn_expand\.", ".bn3."),
            (r"\.shortcut\.shortcut_conv\.", ".downsample.0."),
            (r"\.shortcut\.shortcut_bn\.", ".downsample.1."),
        ),
        "torch7": (  # Cadene's pretrained-models.pytorch: positions in the Sequentials of a port from Torch7
            (r"^0\.", "conv1."),
            (r"^1\.", "bn1."),
            (r"^([4-7])\.(\d+)\.0\.", lambda match: f"layer{int(match[1]) - 3}.{match[2]}."),
            (r"^(layer\d\.\d+)\.0\.0\.0\.", r"\1.conv1."),
            (r"^(layer\d\.\d+)\.0\.0\.1\.", r"\1.bn1."),
            (r"^(layer\d\.\d+)\.0\.0\.3\.", r"\1.conv2."),
            (r"^(layer\d\.\d+)\.0\.0\.4\.", r"\1.bn2."),
            (r"^(layer\d\.\d+)\.0\.1\.", r"\1.conv3."),
            (r"^(layer\d\.\d+)\.0\.2\.", r"\1.bn3."),
            (r"^(layer\d\.\d+)\.1\.(\d)\.", r"\1.downsample.\2."),
        ),
    }.items()
}


def plain_name(name: str, kind: str, first: int) -> str:
    """The name of an entry behind the network's prefix, as torchvision, mmcls or timm would have it.

    Args:
        name: of the entry.
        kind: a key of `MARKS`; any other leaves the name as it is.
        first: the index of the first stage, of "positions".
    """
    if kind == "positions":
        index, _, rest = name.partition(".")
        if not index.isdecimal() or not rest or len(index) > 2:
            return name
        stage = int(index) - first
        module = f"layer{stage + 1}" if 0 <= stage < MAX_STAGES else {0: "conv1", 1: "bn1"}.get(int(index), index)
        return f"{module}.{rest}"
    for pattern, replacement in _RULES.get(kind, ()):
        name = pattern.sub(replacement, name)
    return name
