"""The code of README and docs runs as it stands there, on small networks.

What makes that quick: depths of 50, 101 and 152 mean one block a stage, recipes have one epoch of small images, there
are 100 digits, and what is published comes from a server on loopback.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from keras_resnext import digits, from_pytorch, quickstart, save_pytorch_weights
from keras_resnext.network.stages import BLOCKS_BY_DEPTH
from keras_resnext.training.recipes import RECIPES
from keras_resnext.weights import published
from keras_resnext.weights.download import sha256
from tests import code_blocks, file_server, references
from tests.serving.server_process import Server
from tests.support import free_memory

if keras.backend.backend() != "tensorflow":
    pytest.skip("the pages export, which needs the TensorFlow backend", allow_module_level=True)

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCKS = {page.relative_to(ROOT).as_posix(): code_blocks.read_blocks(page) for page in PAGES}
RUN = [page for page, blocks in BLOCKS.items() if any(not block.reason and block.runs for block in blocks)]

SMALL = {50: (1, 1, 1, 1), 101: (1, 1, 2, 1), 152: (1, 2, 2, 1)}
DIGITS = 100
ADDRESS = "localhost:8501"  # of TF Serving, on the pages


@pytest.mark.parametrize("page", BLOCKS)
def test_code_is_valid(page: str) -> None:
    """Syntax, and the options of commands, where a block is not run too."""
    for block in BLOCKS[page]:
        code_blocks.check(block)
    code_blocks.check_inline((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the checkpoint has a head of 1000 classes and the model one of")
@pytest.mark.parametrize("page", RUN)
def test_code_runs(page: str, desk: Path) -> None:
    names: dict[str, object] = {}
    places: dict[str, str] = {}
    with ExitStack() as stack:
        for block in BLOCKS[page]:
            if block.reason:
                continue
            if ADDRESS in block.code and not places:  # what was exported until here is served
                server = stack.enter_context(Server(desk / "savedmodels", poll=0.2))
                places[ADDRESS] = f"127.0.0.1:{server.port}"
            code_blocks.run(block, names, places)
            free_memory()  # each exports a network of full width


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: images of two classes, a checkpoint, and published/ with torchvision's and
    mmcls's."""
    from torchvision.models.resnet import Bottleneck, ResNet

    folder = tmp_path_factory.mktemp("material")
    module = references.randomise(ResNet(Bottleneck, SMALL[50], groups=32, width_per_group=4))
    torch.save(module.state_dict(), folder / "my_checkpoint.pth")
    save_file(module.state_dict(), folder / "my_finetuned.safetensors")
    (folder / "published").mkdir()
    torch.save(module.state_dict(), folder / "published" / "resnext50_32x4d.pth")
    save_pytorch_weights(
        from_pytorch(module.state_dict()), folder / "published" / "resnext50_32x4d_b32x8_imagenet.pth", "mmcls"
    )
    for file in list((folder / "published").iterdir()):
        file.rename(file.with_stem(f"{file.stem}-{sha256(file)[:8]}"))
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for i, kind in enumerate(("cat", "dog")):
            inside = folder / "photos" / split / kind
            inside.mkdir(parents=True)
            for j in range(count):
                Image.fromarray(rng.integers(100 * i, 100 * i + 150, (60, 80, 3), "uint8")).save(inside / f"{j}.jpg")
    for file in ("cat.jpg", "dog.png"):
        Image.effect_noise((320, 240), 90).convert("RGB").save(folder / file)
    return folder


@pytest.fixture
def desk(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in with all that, and a server for what is published."""
    for path in material.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / ".keras"))
    for depth, blocks in SMALL.items():
        monkeypatch.setitem(BLOCKS_BY_DEPTH, depth, blocks)
    for name, recipe in RECIPES.items():
        size = min(recipe.augmentation.size, 64)
        small = replace(recipe.shortened(1), batch_size=4, augmentation=replace(recipe.augmentation, size=size))
        monkeypatch.setitem(RECIPES, name, small)
    images, labels = digits.load_digits()
    for module in (digits, quickstart):
        monkeypatch.setattr(module, "load_digits", lambda: (images[:DIGITS], labels[:DIGITS]))
    monkeypatch.setitem(quickstart.run_quickstart.__kwdefaults__, "epochs", 1)
    with file_server.serve(tmp_path / "published") as files:
        addresses = [files.url(file.name) for file in (tmp_path / "published").iterdir()]
        rows = [
            replace(row, url=next(a for a in addresses if ("b32x8" in a) == (row.source == "mmcls")))
            for row in published.PUBLISHED
            if row.architecture == "resnext50_32x4d" and row.source in ("torchvision", "mmcls")
        ]
        monkeypatch.setattr(published, "PUBLISHED", tuple(rows))
        yield tmp_path


def test_readme_begins_with_two_commands() -> None:
    """Which .ci/run and whoever follows the README run as they stand."""
    found = [block.code for block in BLOCKS["README.md"] if block.language == "sh"]
    assert found[:2] == ["pip install . && keras-resnext quickstart\n", "pip install -e '.[test]' && pytest\n"]
    assert README.index("```sh") < README.index("## ")


def test_readme_fits_two_screens() -> None:
    assert len(README.splitlines()) <= 90


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Those to files of the repository; in docs/ sphinx checks the headings that they name as well."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?:|#|mailto:", link):
            assert (page.parent / link.partition("#")[0]).exists(), link
