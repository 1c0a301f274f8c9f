__version__: str

from . import explain as explain
from . import export as export
from . import serving as serving
from .evaluation import evaluate as evaluate
from .labels import decode_predictions as decode_predictions
from .loading import from_pretrained as from_pretrained
from .loading import from_pytorch as from_pytorch
from .model import ResNeXt as ResNeXt
from .model import ResNeXt50 as ResNeXt50
from .model import ResNeXt101 as ResNeXt101
from .model import ResNeXt152 as ResNeXt152
from .model import create as create
from .network.architectures import list_architectures as list_architectures
from .network.input_preprocessing import get_preprocessing as get_preprocessing
from .network.input_preprocessing import set_preprocessing as set_preprocessing
from .network.layers import GroupedConv2D as GroupedConv2D
from .preprocessing import Preprocessing as Preprocessing
from .preprocessing import preprocess_input as preprocess_input
from .weights.assign import load_pytorch_weights as load_pytorch_weights
from .weights.assign import save_pytorch_weights as save_pytorch_weights
from .weights.published import list_pretrained as list_pretrained
