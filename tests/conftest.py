import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import pytest
from hypothesis import settings

# JAX compiles every new shape, which takes seconds; TensorFlow takes milliseconds.
EXAMPLES = 100 if keras.backend.backend() == "tensorflow" else 6
settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True, max_examples=EXAMPLES)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _clean_session(request):
    """Frees what the last test built where that is much: the big models would fill the memory together."""
    yield
    if request.node.get_closest_marker("slow"):
        keras.backend.clear_session()


@pytest.fixture(autouse=True, scope="module")
def _clean_session_after_file():
    yield
    keras.backend.clear_session()


def pytest_collection_modifyitems(items):
    """Fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
