"""One network, one model base and one server for all tests of server and clients."""

from collections.abc import Iterator
from pathlib import Path

import keras
import pytest

from keras_resnext import ResNeXt
from keras_resnext.serving import Client, GrpcClient
from tests.serving.material import CLASSES, LABELS, SIZE, save_slow
from tests.serving.server_process import Server
from tests.support import randomise


@pytest.fixture(scope="session")
def model() -> keras.Model:
    options = dict(blocks=(1, 1, 1, 1), groups=4, width_per_group=4, base_channels=8, stem_channels=8)
    return randomise(ResNeXt(**options, classes=CLASSES, input_shape=(SIZE, SIZE, 3), name="net"))


@pytest.fixture(scope="session")
def base(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model base with the export `net` and with `slow`; nobody changes it."""
    for module in ("tensorflow", "uvicorn", "tensorflow_serving"):
        pytest.importorskip(module)
    if keras.backend.backend() != "tensorflow":
        pytest.skip("export needs the TensorFlow backend")
    from keras_resnext.export import export_saved_model

    path = tmp_path_factory.mktemp("base")
    export_saved_model(model, path / "net", labels=LABELS, keras_file=True)
    save_slow(path / "slow" / "1")
    return path


@pytest.fixture(scope="session")
def plain(base: Path) -> Iterator[Server]:
    with Server(base, grpc_port=0, batch_timeout=0.005) as server:
        yield server


@pytest.fixture(params=[Client, GrpcClient], ids=["rest", "grpc"])
def kind(request: pytest.FixtureRequest) -> type[Client] | type[GrpcClient]:
    return request.param
