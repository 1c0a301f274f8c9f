"""Looking after a model base: `keras-resnext models ls`, `rm`, `label`, and the models.config that TF Serving reads."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from google.protobuf import text_format

from keras_resnext import cli
from keras_resnext.export.models_config import (
    ModelConfig,
    enter_model,
    parse_config,
    update_config,
    with_labels,
    with_model,
    without_model,
)
from keras_resnext.serving.model_base import find_models, find_versions, label_version, list_versions, remove_version
from keras_resnext.weights.download import sha256


def run(*arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def make_version(base, name, number, **manifest):
    folder = base / name / str(number)
    (folder / "assets").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph" * number)
    (folder / "assets" / "labels.txt").write_text("a\nb\n")
    files = ("saved_model.pb", "assets/labels.txt")
    facts = {"created": "2026-01-02T03:04:05+00:00", "sha256": {f: sha256(folder / f) for f in files}, **manifest}
    (folder / "manifest.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def base(tmp_path):
    for number in (1, 2, 10):
        make_version(tmp_path, "net", number, source="net.pth", accuracy={"top1": 77.618, "top5": 93.7})
    make_version(tmp_path, "digits", 1)
    (tmp_path / "net" / ".export-x").mkdir()
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_what_a_base_holds(base):
    assert find_models(base) == {"net": base / "net", "digits": base / "digits"}
    assert find_models(base / "net") == find_models(base / "net" / "2") == {"net": base / "net"}
    assert sorted(find_versions(base / "net")) == [1, 2, 10]
    rows = {(row.model, row.version): row for row in list_versions(base)}
    assert len(rows) == 4
    assert {key for key, row in rows.items() if row.served} == {("net", 10), ("digits", 1)}
    row = rows["net", 2]
    size = sum(file.stat().st_size for file in row.path.rglob("*") if file.is_file())
    assert (row.size, row.source, row.accuracy["top1"], row.hashes) == (size, "net.pth", 77.618, "match")


def test_ls(base, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    label_version(base / "net", "stable", 2)
    code, out, err = run("models", "ls", base, capsys=capsys)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[1] == ["digits", "*1", "0.0", "MB", "2026-01-02", "match"]
    assert [row[1] for row in rows[2:5]] == ["1", "*2", "*10"]
    assert rows[3][-4:] == ["77.62", "stable", "match", "net.pth"]
    (base / "net" / "1" / "assets" / "labels.txt").write_text("c\n")
    (base / "net" / "1" / "more").write_text("")
    code, out, err = run("models", "ls", base / "net", capsys=capsys)
    assert (code, err) == (2, "keras-resnext: some files are not as they were exported\n")
    assert "more is new, assets/labels.txt is changed" in " ".join(out.split())
    assert run("models", "ls", base, "--no-verify", capsys=capsys)[0] == 0


def test_a_manifest_that_is_none_is_no_obstacle(base):
    (base / "digits" / "1" / "manifest.json").write_text("[1")
    (row,) = list_versions(base / "digits")
    assert (row.created, row.accuracy, row.hashes) == ("", {}, "not recorded")


def test_rm(base, capsys):
    assert run("models", "rm", base / "net" / "1", capsys=capsys) == (0, f"{base}/net/1 removed\n", "")
    assert sorted(os.listdir(base / "net")) == [".export-x", "10", "2"]
    code, _, err = run("models", "rm", base / "net" / "10", capsys=capsys)
    assert (code, err) == (
        2,
        "keras-resnext: version 10 of net is the one that is served; --force removes it all the same\n",
    )
    label_version(base / "net", "stable", 2)
    with pytest.raises(ValueError, match="has the label stable; --force removes both"):
        remove_version(base / "net" / "2")
    remove_version(base / "net" / "2", force=True)
    assert sorted(find_versions(base / "net")) == [10]
    assert parse_config((base / "models.config").read_text())["net"].labels == {}
    for wrong, message in (("net/7", "there is no saved_model.pb"), ("net", "its last part a number")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            remove_version(base / wrong)


def test_label(base, capsys):
    code, out, _ = run("models", "label", base / "net" / "2", "stable", capsys=capsys)
    assert (code, out) == (0, "net: stable is version 2\n")
    assert run("models", "label", base / "net" / "10", "canary", capsys=capsys)[0] == 0
    config = parse_config((base / "models.config").read_text())["net"]
    assert config == ModelConfig("net", "/models/net", None, (2, 10), {"stable": 2, "canary": 10})
    assert run("models", "label", base / "net", "canary", "--remove", capsys=capsys)[1] == "net: stable is version 2\n"
    run("models", "label", base / "net", "stable", "--remove", capsys=capsys)
    assert parse_config((base / "models.config").read_text())["net"] == ModelConfig("net", "/models/net")
    for arguments, message in [
        ((base / "net" / "3", "x"), "there is no"),
        ((base / "net", "x"), "must be BASE/NAME/VERSION"),
        ((base / "net" / "2", "a/b"), "must be a name without / and :"),
        ((base / "net", "x", "--remove"), "label='x' is none of net; it has no labels"),
    ]:
        code, out, err = run("models", "label", *arguments, capsys=capsys)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert message in err


def test_what_is_written_is_what_tf_serving_reads(base):
    messages = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    file = base / "models.config"
    file.write_text('# mine\nmodel_config_list {\n  config {\n    name: "other"\n    base_path: "/m/other"\n  }\n}\n')
    label_version(base / "net", "stable", 1)
    label_version(base / "net", "latest", 10)
    text = file.read_text()
    assert text.startswith("# mine\n")
    parsed = text_format.Parse(text, messages.ModelServerConfig())
    other, net = parsed.model_config_list.config
    assert (other.name, other.base_path) == ("other", "/m/other")
    assert (net.name, net.base_path, net.model_platform) == ("net", "/models/net", "tensorflow")
    assert list(net.model_version_policy.specific.versions) == [1, 10]
    assert dict(net.version_labels) == {"stable": 1, "latest": 10}
    assert parse_config(text)["net"].wanted([1, 2, 10]) == {1, 10}


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("", {4}),
        ("model_version_policy { latest { num_versions: 2 } }", {3, 4}),
        ("model_version_policy: < all: {} >", {1, 3, 4}),
        ("model_version_policy { specific { versions: 1 versions: 9 } }", {1}),
        ('version_labels { key: "a" value: 1 } version_labels { key: "b" value: 2 }', {1, 4}),
    ],
)
def test_policies(policy, wanted):
    text = f'model_config_list {{ config {{ name: "n" logging_config {{ }} {policy} }} }}'
    assert parse_config(text)["n"].wanted([1, 3, 4]) == wanted


def test_changing_a_config_keeps_everything_else():
    line = 'model_config_list { config { name: "x" version_labels { key: "q" value: 4 } } config { name: "y" } }'
    assert parse_config(without_model(line, "x")) == {"y": ModelConfig("y")}
    changed = with_labels(line, "x", {"w": 3}, {4})
    assert parse_config(changed)["x"] == ModelConfig("x", "", None, (3, 4), {"w": 3})
    assert parse_config(changed)["y"] == ModelConfig("y")
    quoted = with_labels(with_model("", Path('a"b')), 'a"b', {'l"': 1}, {1})
    assert parse_config(quoted)['a"b'].labels == {'l"': 1}
    assert without_model(f"# mine\n{with_model('', Path('net'))}", "net") == "# mine\nmodel_config_list {\n}\n"
    with pytest.raises(ValueError, match=r"has an entry net for /m/other, not for"):
        with_model('model_config_list { config { name: "net" base_path: "/m/other" } }', Path("net"))
    with pytest.raises(ValueError, match="a form that cannot be changed here; change the entry x by hand"):
        without_model('model_config_list { config [{ name: "x" }] }', "x")
    for broken in ("model_config_list {", "model_config_list { config { name: 3 } }", "\x00", "a {" * 5000):
        with pytest.raises(ValueError, match="is no ModelServerConfig: "):
            with_labels(broken, "x", {"a": 1}, {1})


def test_models_enter_and_leave_the_config(base, capsys):
    """`export` enters a model, the last version takes its entry along, and what else stands in the file stays."""
    file = base / "models.config"
    enter_model(base / "net")
    assert not file.exists(), "TF Serving can be told of a single model without one"
    text = '# mine\nmodel_config_list {\n  config {\n    name: "best" # of all\n    base_path: "/srv/m/net"\n  }\n}\n'
    file.write_text(text)
    enter_model(base / "net")
    assert file.read_text() == text, "the folder has an entry under another name"
    assert {row.model for row in list_versions(base) if row.served} == {"best"}
    enter_model(base / "digits")
    assert parse_config(file.read_text())["digits"] == ModelConfig("digits", "/srv/m/digits"), "beside the others"
    assert file.read_text().startswith(text[:-2])
    assert {row.model for row in list_versions(base) if row.served} == {"best", "digits"}
    assert run("models", "rm", base / "digits" / "1", "--force", capsys=capsys)[0] == 0
    assert file.read_text() == text
    label_version(base / "net", "stable", 1)
    assert parse_config(file.read_text())["best"].labels == {"stable": 1}


LABEL = """
import sys
from keras_resnext.serving.model_base import label_version
print("ready", flush=True)
sys.stdin.read()
for number in range(4):
    label_version(sys.argv[1], f"{sys.argv[2]}{number}", 1)
"""


@pytest.mark.parametrize("count", [2, 3])
def test_commands_at_the_same_time_lose_nothing(base, count):
    """Real processes, which begin together."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", LABEL, base / "net", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in "abc"[:count]
    ]
    for process in running:
        process.stdout.readline()
    for process in running:
        process.stdin.close()
    assert [process.wait(60) for process in running] == [0] * count
    labels = parse_config((base / "models.config").read_text())["net"].labels
    assert sorted(labels) == [f"{name}{number}" for name in "abc"[:count] for number in range(4)]


def test_concurrent_changes_of_the_config_are_all_there(base):
    names = [f"m{number}" for number in range(12)]
    threads = [threading.Thread(target=label_version, args=(base / "net", name, 1)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(parse_config((base / "models.config").read_text())["net"].labels) == set(names)
    with pytest.raises(ZeroDivisionError):
        update_config(base, lambda text: str(1 // 0))
    update_config(base, lambda text: text)  # nobody waits for one that failed


def test_a_config_that_cannot_be_read_is_left_alone(base, capsys):
    (base / "models.config").write_text("model_config_list {")
    for arguments in (("ls", base), ("label", base / "net" / "1", "a"), ("rm", base / "net" / "1")):
        code, _, err = run("models", *arguments, capsys=capsys)
        assert (code, len(err.splitlines())) == (2, 1)
        assert "models.config is no ModelServerConfig" in err
    assert (base / "models.config").read_text() == "model_config_list {"


def test_warm_up_records_are_read_as_tf_serving_reads_them(tmp_path):
    tf = pytest.importorskip("tensorflow")
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    from keras_resnext.export.version_folder import WARMUP_FILE
    from keras_resnext.export.warmup_requests import read_warmup, write_warmup

    write_warmup(tmp_path, ["classify", "features", "serving_bytes"], (4, 6))
    found = list(read_warmup(tmp_path))
    records = [
        logs.PredictionLog.FromString(r)
        for r in tf.data.TFRecordDataset(str(tmp_path / WARMUP_FILE)).as_numpy_iterator()
    ]
    assert [name for name, _ in found] == [name for name in ("classify", "features", "serving_bytes") for _ in range(2)]
    for (_, arrays), record in zip(found, records, strict=True):
        if record.HasField("classify_log"):
            examples = record.classify_log.request.input.example_list.examples
            assert list(arrays["inputs"]) == [example.SerializeToString() for example in examples]
        else:
            for name, tensor in record.predict_log.request.inputs.items():
                assert (arrays[name] == tf.make_ndarray(tensor)).all()
    (tmp_path / WARMUP_FILE).write_bytes(b"no records" * 10)
    with pytest.raises(ValueError, match="tf_serving_warmup_requests"):
        list(read_warmup(tmp_path))
