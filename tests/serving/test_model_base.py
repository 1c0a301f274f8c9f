"""savedmodels/ as a whole: each file is read by the message type it is for, all agree, and the README's commands run.

In place of docker, kubectl, curl and the server stand programs that note how they were called.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

ROOT = Path(__file__).parents[2]
BASE = ROOT / "savedmodels"
README = (BASE / "README.md").read_text(encoding="utf-8")

NAME = "resnext50"
FILES = ("models.config", "batching.config", "monitoring.config", "ssl.config.example", "docker-compose.yaml")
GRPC, REST = 8500, 8501
STATUS = f"/v1/models/{NAME}"
METRICS = "/monitoring/prometheus/metrics"

# The flags of tensorflow_serving/model_servers/main.cc, TF Serving 2.19.
KNOWN = """
port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support
enable_batching allow_version_labels_for_unavailable_models batching_parameters_file
enable_per_model_batching_parameters model_config_file model_config_file_poll_wait_seconds model_name
model_base_path num_load_threads num_unload_threads max_num_load_retries load_retry_interval_micros
file_system_poll_wait_seconds flush_filesystem_caches tensorflow_session_parallelism
tensorflow_session_config_file tensorflow_intra_op_parallelism tensorflow_inter_op_parallelism
use_alts_credentials ssl_config_file platform_config_file per_process_gpu_memory_fraction saved_model_tags
grpc_channel_arguments grpc_max_threads enable_model_warmup num_request_iterations_for_warmup version
monitoring_config_file remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools
num_tflite_interpreters_per_pool enable_signature_method_name_check xla_cpu_compilation_enabled
enable_profiler thread_pool_factory_config_file mixed_precision skip_initialize_tpu
enable_grpc_healthcheck_service
"""
FLAGS = frozenset(KNOWN.split())

# Of session_bundle_config.proto, monitoring_config.proto and ssl_config.proto, which tensorflow-serving-api leaves out.
INT64, STRING = ".google.protobuf.Int64Value", ".google.protobuf.StringValue"
MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": INT64,
        "batch_timeout_micros": INT64,
        "max_enqueued_batches": INT64,
        "num_batch_threads": INT64,
        "thread_pool_name": STRING,
        "allowed_batch_sizes": "repeated int64",
        "pad_variable_length_inputs": "bool",
    },
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": ".tensorflow.serving.PrometheusConfig"},
    "SSLConfig": {"server_key": "string", "server_cert": "string", "custom_ca": "string", "client_verify": "bool"},
}


def message_types():
    file = descriptor_pb2.FileDescriptorProto(name="model_base.proto", package="tensorflow.serving", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            added = message.field.add(name=field, number=number)
            added.label = added.LABEL_REPEATED if kind.startswith("repeated ") else added.LABEL_OPTIONAL
            kind = kind.removeprefix("repeated ")
            added.type = added.TYPE_MESSAGE if kind.startswith(".") else getattr(added, f"TYPE_{kind.upper()}")
            if kind.startswith("."):
                added.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"tensorflow.serving.{name}")) for name in MESSAGES}


TYPES = message_types()


def parse(text, kind):
    return text_format.Parse(text, TYPES[kind]())


def parse_models(text):
    """The one model of a ModelServerConfig."""
    module = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    (model,) = text_format.Parse(text, module.ModelServerConfig()).model_config_list.config
    return model


def read(name):
    return (BASE / name).read_text(encoding="utf-8")


def documents(name):
    return list(yaml.safe_load_all(read(name)))


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


def flags(arguments):
    """--NAME=VALUE arguments as a dictionary; each must be a flag of TF Serving's, given once."""
    pairs = [re.fullmatch(r"--(\w+)=(.+)", argument) for argument in arguments]
    assert all(pairs), arguments
    found = dict(pair.groups() for pair in pairs)
    assert len(found) == len(pairs), arguments
    assert set(found) <= FLAGS, set(found) - FLAGS
    return found


def file_names(found):
    """The flags with paths shortened to file names: where a folder is mounted differs."""
    return {flag: Path(value).name if value.startswith("/") else value for flag, value in found.items()}


def container():
    return documents("kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]["containers"][0]


# Text protobufs


def test_models_config():
    model = parse_models(read("models.config"))
    assert (model.name, model.base_path, model.model_platform) == (NAME, f"/models/{NAME}", "tensorflow")
    assert model.model_version_policy.latest.num_versions == 1
    assert not model.version_labels


def test_commented_canary_is_the_readmes_and_valid():
    lines = re.findall(r"^ *# ((?:model_version_policy|version_labels) .*)$", read("models.config"), re.MULTILINE)
    (block,) = re.findall(r"```proto\n(.*?)```", README, re.DOTALL)
    assert lines == block.splitlines()
    policy = re.compile(r"^ *model_version_policy .*$", re.MULTILINE)
    assert len(policy.findall(read("models.config"))) == 1
    model = parse_models(policy.sub("\n".join(lines), read("models.config")))
    assert list(model.model_version_policy.specific.versions) == [1, 2]
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}


def test_batching_config():
    batching = parse(read("batching.config"), "BatchingParameters")
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 1, "a single image would be computed as several"
    assert sizes[-1] == batching.max_batch_size.value, "TF Serving does not start otherwise"
    assert batching.max_enqueued_batches.value > 0
    assert batching.num_batch_threads.value > 0
    assert batching.batch_timeout_micros.value >= 0


def test_monitoring_config():
    prometheus = parse(read("monitoring.config"), "MonitoringConfig").prometheus_config
    assert prometheus.enable
    assert prometheus.path == METRICS


def test_ssl_example():
    ssl = parse(read("ssl.config.example"), "SSLConfig")
    assert re.fullmatch(r"-----BEGIN PRIVATE KEY-----\n(.*\n)+-----END PRIVATE KEY-----\n", ssl.server_key)
    assert re.fullmatch(r"-----BEGIN CERTIFICATE-----\n(.*\n)+-----END CERTIFICATE-----\n", ssl.server_cert)
    assert not ssl.client_verify


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("max_batch_size: 32", "BatchingParameters"),  # a wrapper: { value: 32 }
        ("max_batchsize { value: 32 }", "BatchingParameters"),
        ("enable: true", "MonitoringConfig"),
        ("server_key_file: 'a'", "SSLConfig"),
    ],
)
def test_what_the_server_would_refuse_is_refused(text, kind):
    with pytest.raises(text_format.ParseError):
        parse(text, kind)


# README


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


# Compose and Kubernetes


@pytest.mark.parametrize(
    ("status", "body", "healthy"),
    [
        (200, {"model_version_status": [{"version": "1", "state": "AVAILABLE"}]}, True),
        (200, {"model_version_status": [{"version": "1", "state": "LOADING"}]}, False),
        (200, {"model_version_status": [{"state": "END", "status": {"error_code": "UNAVAILABLE"}}]}, False),
        (404, {"error": "Could not find any versions of model"}, False),
    ],
)
def test_compose_health_check_runs(status, body, healthy):
    """Against a server on loopback, on a free port in place of REST's."""
    (service,) = documents("docker-compose.yaml")[0]["services"].values()
    kind, *command = service["healthcheck"]["test"]
    assert kind == "CMD"
    assert not any("$" in part for part in command), "compose would put a variable there"
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body, indent=1).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert sum(part.count(f"/{REST}") for part in command) == 1
        command = [part.replace(f"/{REST}", f"/{server.server_port}") for part in command]
        done = subprocess.run(command, timeout=30, check=False)
        server.shutdown()
    assert asked == [STATUS]
    assert (done.returncode == 0) == healthy


def test_deployment():
    deployment, service = documents("kubernetes/deployment.yaml")
    assert (deployment["kind"], deployment["apiVersion"]) == ("Deployment", "apps/v1")
    pod = deployment["spec"]["template"]
    labels = deployment["spec"]["selector"]["matchLabels"]
    assert pod["metadata"]["labels"] == labels == service["spec"]["selector"]

    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"grpc": GRPC, "rest": REST}
    assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"] == {"path": STATUS, "port": "rest"}

    mounts = {mount["name"]: mount for mount in container()["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert all(mount["readOnly"] for mount in mounts.values())
    assert mounts["models"]["mountPath"] == "/models"
    files = [value for flag, value in flags(container()["args"]).items() if flag.endswith("_file")]
    assert {str(Path(value).parent) for value in files} == {mounts["config"]["mountPath"]}
    annotations = pod["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == METRICS
    assert annotations["prometheus.io/port"] == str(REST)


def test_autoscaler():
    (scaler,) = documents("kubernetes/autoscaler.yaml")
    deployment = documents("kubernetes/deployment.yaml")[0]
    assert (scaler["kind"], scaler["apiVersion"]) == ("HorizontalPodAutoscaler", "autoscaling/v2")
    assert scaler["spec"]["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"], "applying the deployment would undo the autoscaler"
    assert container()["resources"]["requests"]["cpu"], "utilisation is of the requested CPU"
    assert 1 <= scaler["spec"]["minReplicas"] <= scaler["spec"]["maxReplicas"]


def test_kserve():
    (service,) = documents("kubernetes/kserve.yaml")
    assert (service["kind"], service["apiVersion"]) == ("InferenceService", "serving.kserve.io/v1beta1")
    assert service["metadata"]["name"] == NAME, "KServe makes it the model's name"
    model = service["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "tensorflow"}
    volumes = documents("kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]["volumes"]
    assert model["storageUri"] == f"pvc://{volumes[1]['persistentVolumeClaim']['claimName']}/{NAME}"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_git_keeps_the_files_and_ignores_exports():
    kept = [*FILES, *(f"kubernetes/{path.name}" for path in (BASE / "kubernetes").iterdir())]
    ignored = [f"{NAME}/1/saved_model.pb", "digits/1/saved_model.pb", "ssl.config", "local.config"]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *kept, *ignored], cwd=BASE, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ignored
