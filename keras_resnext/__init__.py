from .model import ResNeXt, ResNeXt50, ResNeXt101, ResNeXt152, create
from .architectures import list_architectures
from .layers import GroupedConv2D
