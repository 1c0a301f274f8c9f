import os
from collections import Counter

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # two workers on two cores: 5 % less time

import keras
import pytest
from hypothesis import settings

from tests.support import free_memory

# JAX compiles every new shape, which takes seconds; TensorFlow takes milliseconds.
EXAMPLES = 100 if keras.backend.backend() == "tensorflow" else 6
settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True, max_examples=EXAMPLES)
settings.load_profile("suite")


def _resident_memory():
    """Bytes that this process holds now; 0 where /proc does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@pytest.fixture(autouse=True)
def _free_memory_after_large_tests(request):
    before = _resident_memory()
    yield
    if request.node.get_closest_marker("slow"):
        keras.backend.clear_session()
        free_memory()
    elif _resident_memory() - before > 2e8:
        free_memory()


@pytest.fixture(autouse=True, scope="module")
def _free_memory_after_file():
    yield
    keras.backend.clear_session()
    free_memory()


def pytest_collection_modifyitems(items):
    """Files with many slow tests first, so that no long file begins when the other worker is done; in them fast tests
    first."""
    slow = {item: item.get_closest_marker("slow") is not None for item in items}
    count = Counter(item.path for item in items if slow[item])
    items.sort(key=lambda item: (-count[item.path], item.path, slow[item]))
