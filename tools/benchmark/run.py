"""`keras-resnext benchmark` from a checkout.

    python tools/benchmark/run.py [ROW…] [--list] [--output FOLDER] [further options: --help]

On a GPU, where neither TensorFlow nor this package is installed:

    KERAS_BACKEND=jax python tools/benchmark/run.py gpu-training gpu-inference --output results
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

if __name__ == "__main__":
    arguments = ["benchmark", *sys.argv[1:]]

    from keras_resnext.cli import main

    main(arguments)
