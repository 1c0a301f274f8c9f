"""The batch that fits the memory: the rule, what memory is left, and what a process that trains really takes."""

import pytest

from keras_resnext.training.batch_fit import fit_batch, largest_batch, peak_of_batch
from keras_resnext.training.memory import available_memory
from keras_resnext.weights.keras_files import save_keras
from tests.training.small_runs import RECIPE, build


@pytest.mark.parametrize(
    ("most", "images", "smallest", "size", "why"),
    [
        (100, 100_000, 1, 64, "the largest power of two that fits the memory"),
        (64, 100_000, 1, 64, "the largest power of two that fits the memory"),
        (10**9, 1438, 1, 64, "leaves 16 steps an epoch; it fits the memory"),
        (10**9, 10**7, 1, 8192, "the rule for the learning rate holds for"),
        (100, 100_000, 3, 96, "fits the memory"),
        (10**9, 10, 2, 2, "leaves 16 steps"),
    ],
)
def test_the_largest_power_of_two(most, images, smallest, size, why):
    choice = largest_batch(lambda tried: tried <= most, images, "the memory", smallest)
    assert choice.size == size
    assert why in choice.why


def test_no_batch_fits():
    with pytest.raises(RuntimeError, match="not even 1 images fit 3 GiB"):
        largest_batch(lambda _: False, 1000, "3 GiB")


def machine(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return available_memory(root)


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n"}


def test_available_memory_is_the_smallest_limit(tmp_path):
    assert machine(tmp_path / "plain", MEMINFO) == 5000 * 1024
    two = {**MEMINFO, "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "4000000\n"}
    two |= {"sys/fs/cgroup/a/memory.current": "3000000\n", "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 7\n"}
    two |= {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "1\n"}
    assert machine(tmp_path / "two", two) == 1_000_007
    own = {**MEMINFO, "proc/self/cgroup": "0::/somewhere/else\n", "sys/fs/cgroup/memory.max": "2000\n"}
    assert machine(tmp_path / "own", {**own, "sys/fs/cgroup/memory.current": "500\n"}) == 1500
    one = {**MEMINFO, "proc/self/cgroup": "5:cpu:/x\n3:memory:/x\n"}
    one |= {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "900\n"}
    assert machine(tmp_path / "one", {**one, "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "100\n"}) == 800
    assert machine(tmp_path / "none", {}) > 2**28  # what there is of it
    assert available_memory() > 2**26


@pytest.mark.slow
def test_a_real_choice_is_remembered_by_its_reason():
    choice = fit_batch(build(), RECIPE, 1000)
    assert choice.size == 32
    assert "GiB of memory, of which" in choice.why


def test_a_process_that_fails_says_why(tmp_path):
    save_keras(build(), tmp_path / "model.keras")
    (tmp_path / "model.keras").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match=r"batch of 4 images could not be measured: .*model\.keras"):
        peak_of_batch(tmp_path / "model.keras", RECIPE, 4)
