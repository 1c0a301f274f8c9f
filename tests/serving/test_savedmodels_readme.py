"""The commands of savedmodels/README.md run as they stand there, and start the server as all other files do.

In place of docker, kubectl, curl and the server stand programs that note how they were called.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from keras_resnext.export.models_config import enter_model
from tests.serving.savedmodels_files import (
    BASE,
    FILES,
    FLAGS,
    GRPC,
    METRICS,
    NAME,
    README,
    REST,
    STATUS,
    container,
    documents,
    flags,
    parse,
    parse_models,
    read,
)


@dataclass
class Call:
    program: str
    arguments: list[str]
    stdin: str


STAND_IN = """#!{python} -SE
import json, os, sys
name = os.path.basename(sys.argv[0])
stdin = sys.stdin.read() if "-" in sys.argv or "@-" in sys.argv else ""
with open(os.environ["CALLS"], "a") as file:
    print(json.dumps([name, sys.argv[1:], stdin]), file=file)
"""
IMAGE = bytes(range(256)) * 40  # long enough that base64 breaks lines


@pytest.fixture(scope="module")
def readme_run(tmp_path_factory):
    """Runs the README's shell blocks in a copy of the folder; gives the copy and the calls."""
    root = tmp_path_factory.mktemp("base")
    folder, programs = root / "savedmodels", root / "programs"
    shutil.copytree(BASE / "kubernetes", folder / "kubernetes")  # and not what somebody exported
    for file in FILES:
        shutil.copy(BASE / file, folder / file)
    (folder / NAME / "1").mkdir(parents=True)
    (folder / NAME / "1" / "saved_model.pb").touch()
    enter_model(folder / NAME)  # as the export does that the README begins with
    (folder / "build/2").mkdir(parents=True)
    (folder / "cat.jpg").write_bytes(IMAGE)
    for file in ("server.key", "server.crt"):
        (folder / file).write_text(f"-----BEGIN {file}-----\nAa+/\nBb==\n-----END {file}-----\n")
    programs.mkdir()
    for name in ("keras-resnext", "docker", "tensorflow_model_server", "curl", "kubectl"):
        (programs / name).write_text(STAND_IN.format(python=sys.executable))
        (programs / name).chmod(0o755)
    (programs / "python3").symlink_to(sys.executable)

    calls = root / "calls"
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=folder,
            env={**os.environ, "PATH": path, "CALLS": str(calls)},
            check=True,
            timeout=60,
        )
    return folder, [Call(*json.loads(line)) for line in calls.read_text().splitlines()]


def calls_of(readme_run, program):
    return [call for call in readme_run[1] if call.program == program]


def file_names(found):
    """The flags with paths shortened to file names: where a folder is mounted differs."""
    return {flag: Path(value).name if value.startswith("/") else value for flag, value in found.items()}


def test_readme_makes_a_config_for_this_folder(readme_run):
    folder, _ = readme_run
    model = parse_models((folder / "local.config").read_text())
    assert Path(model.base_path) == folder / NAME


def test_readme_makes_an_ssl_config(readme_run):
    folder, _ = readme_run
    ssl = parse((folder / "ssl.config").read_text(), "SSLConfig")
    assert ssl.server_key == (folder / "server.key").read_text()
    assert ssl.server_cert == (folder / "server.crt").read_text()
    assert (folder / "ssl.config").stat().st_mode & 0o077 == 0


def test_readme_rolls_out_and_back(readme_run):
    folder, _ = readme_run
    assert sorted(path.name for path in (folder / NAME).iterdir()) == ["1", "bad-2"]


def test_readme_names_real_flags_and_every_file():
    # TF Serving's longer flags alone have underscores; the commands themselves are checked below.
    assert set(re.findall(r"--(\w+_\w+)", README)) <= FLAGS
    assert all(file in README for file in FILES)
    assert {f"kubernetes/{path.name}" for path in (BASE / "kubernetes").iterdir()} == set(
        re.findall(r"kubernetes/\w+\.yaml", README)
    )


def test_all_start_the_server_alike(readme_run):
    _, (*options, image), docker = split_at_image(calls_of(readme_run, "docker"))
    (plain,) = (flags(call.arguments) for call in calls_of(readme_run, "tensorflow_model_server"))
    (service,) = documents("docker-compose.yaml")[0]["services"].values()
    deployed = flags(container()["args"])
    kserve = documents("kubernetes/kserve.yaml")[0]["spec"]["predictor"]["model"]

    assert flags(service["command"]) == flags(docker)
    assert (plain.pop("port"), plain.pop("rest_api_port")) == (str(GRPC), str(REST))
    assert plain.pop("model_config_file") == str(readme_run[0] / "local.config")
    plain["model_config_file"] = "models.config"
    assert file_names(plain) == file_names(flags(docker))
    threads = {flag: deployed.pop(flag) for flag in list(deployed) if "op_parallelism" in flag}
    assert file_names(deployed) == file_names(flags(docker))
    assert threads == flags(kserve["args"])
    assert set(threads.values()) == {container()["resources"]["limits"]["cpu"]}
    assert kserve["resources"] == container()["resources"]

    tag = image.partition(":")[2]
    assert [service["image"], container()["image"]] == [image, image]
    assert kserve["runtimeVersion"] == tag
    assert set(re.findall(r"\d+\.\d+\.\d+(?=-gpu)", README + read("docker-compose.yaml"))) == {tag}

    assert [options[i + 1] for i, option in enumerate(options) if option == "-p"] == service["ports"]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in (GRPC, REST)]
    assert options[options.index("-v") + 1] == f"{readme_run[0]}:/models:ro"
    assert service["volumes"] == [".:/models:ro"]


def split_at_image(calls):
    (call,) = calls
    (at,) = (i for i, argument in enumerate(call.arguments) if argument.startswith("tensorflow/serving:"))
    assert call.arguments[0] == "run"
    return call, call.arguments[1 : at + 1], call.arguments[at + 1 :]


def test_files_that_the_flags_name(readme_run):
    used = flags(split_at_image(calls_of(readme_run, "docker"))[2])
    paths = {flag: value for flag, value in used.items() if flag.endswith("_file")}
    assert {flag: Path(path).name for flag, path in paths.items()} == {
        "model_config_file": "models.config",
        "batching_parameters_file": "batching.config",
        "monitoring_config_file": "monitoring.config",
    }
    assert {str(Path(path).parent) for path in paths.values()} == {"/models"}
    assert all((BASE / Path(path).name).is_file() for path in paths.values())


def test_export_goes_where_the_server_looks(readme_run):
    (export,) = calls_of(readme_run, "keras-resnext")
    assert export.arguments[0] == "export"
    assert Path("/models", export.arguments[-1]) == Path(f"/models/{NAME}")


def test_curl_asks_what_the_server_answers(readme_run):
    *reads, last = [call.arguments for call in calls_of(readme_run, "curl") if "-d" not in call.arguments]
    host = f"http://localhost:{REST}"
    assert reads == [[host + STATUS], [f"{host}{STATUS}/metadata"]]
    assert last == [host + METRICS]

    # The pattern of TF Serving's http_rest_api_handler.cc.
    pattern = rf"{host}/v1/models/([^/:]+)(?:/versions/\d+|/labels/[^/:]+)?:(classify|regress|predict)"
    asked = set()
    for call in calls_of(readme_run, "curl"):
        if "-d" not in call.arguments:
            continue
        assert call.arguments[:2] == ["-d", "@-"]
        name, verb = re.fullmatch(pattern, call.arguments[2]).groups()
        assert name == NAME
        body = json.loads(call.stdin)
        signature = body.pop("signature_name", "serving_default")
        asked.add((signature, verb))
        ((key, (row,)),) = body.items()
        if signature == "classify":
            assert key == "examples"
            assert base64.b64decode(row["image/encoded"]["b64"], validate=True) == IMAGE
        elif signature == "serving_bytes":
            assert key == "instances"
            assert base64.b64decode(row["b64"], validate=True) == IMAGE
        else:
            assert key == "instances"
            assert np.asarray(row).shape == (224, 224, 3)
    assert asked == {
        ("serving_default", "predict"),
        ("serving_bytes", "predict"),
        ("features", "predict"),
        ("classify", "classify"),
    }
    table = re.findall(r"^\| `(\w+)` \| (\w+) \|", README, re.MULTILINE)
    assert set(table) == asked


def test_kubectl_uses_the_config_map_and_the_manifests(readme_run):
    create, *applied = calls_of(readme_run, "kubectl")
    volumes = documents("kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]["volumes"]
    assert create.arguments[:3] == ["create", "configmap", volumes[0]["configMap"]["name"]]
    files = {argument.partition("=")[2] for argument in create.arguments if argument.startswith("--from-file=")}
    assert files == {Path(value).name for flag, value in flags(container()["args"]).items() if flag.endswith("_file")}
    assert [call.arguments for call in applied] == [
        ["apply", "-f", "-"],
        ["apply", "-f", "kubernetes/deployment.yaml", "-f", "kubernetes/autoscaler.yaml"],
    ]
