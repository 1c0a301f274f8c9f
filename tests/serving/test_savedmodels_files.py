"""Each file of savedmodels/ is read by the message type it is for, and all agree."""

import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from google.protobuf import text_format

from keras_resnext.export.models_config import parse_config, with_model
from tests.serving.savedmodels_files import (
    BASE,
    FILES,
    GRPC,
    METRICS,
    NAME,
    README,
    REST,
    ROOT,
    STATUS,
    container,
    documents,
    flags,
    parse,
    parse_models,
    read,
)


def test_models_config():
    """No entry, for TF Serving would look for its folder, and in comments the one that `export` writes."""
    assert not parse_config(read("models.config"))
    written = parse_models(with_model(read("models.config"), BASE / NAME))
    assert (written.name, written.base_path, written.model_platform) == (NAME, f"/models/{NAME}", "tensorflow")
    (entry,) = re.findall(r"^  # config \{\n(?:  #   .*\n)+  # \}\n", read("models.config"), re.MULTILINE)
    entry = entry.replace("# ", "")
    assert (
        parse_models(read("models.config").replace("model_config_list {\n", "model_config_list {\n" + entry)) == written
    )


def test_commented_canary_is_the_readmes_and_valid():
    lines = re.findall(r"^ *# ((?:model_version_policy|version_labels) .*)$", read("models.config"), re.MULTILINE)
    (block,) = re.findall(r"```proto\n(.*?)```", README, re.DOTALL)
    assert lines == block.splitlines()
    text = with_model(read("models.config"), BASE / NAME)
    before, platform, after = text.rpartition('"tensorflow"\n')
    model = parse_models(before + platform + "\n".join(lines) + after)
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


@pytest.mark.parametrize(
    ("status", "healthy"),
    [(200, True), (404, False), (500, False)],
)
def test_compose_health_check_runs(status, healthy):
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
            self.wfile.write(b"# TYPE :tensorflow:serving:request_count counter\n")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert sum(part.count(f"/{REST}") for part in command) == 1
        command = [part.replace(f"/{REST}", f"/{server.server_port}") for part in command]
        done = subprocess.run(command, timeout=30, check=False)
        server.shutdown()
    assert asked == [METRICS]
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
