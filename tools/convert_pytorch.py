"""`keras-resnext convert` for those who come from a checkout: weights between PyTorch and Keras, in either direction.

python tools/convert_pytorch.py resnext50_32x4d-7cdf4587.pth resnext50.keras --verify
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":
    from keras_resnext.cli import main

    main(["convert", *(sys.argv[1:] or ["--help"])])
