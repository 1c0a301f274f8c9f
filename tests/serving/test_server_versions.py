"""Versions and labels come and go while the server runs, and no request is lost."""

import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from keras_resnext.files import placed_whole
from keras_resnext.serving import Client, GrpcClient, ServingTimeoutError
from keras_resnext.serving.model_base import label_version, list_versions
from keras_resnext.serving.server.models import look
from tests.serving.material import ASK_BYTES, CLASSES, IMAGES, NET, SLOW
from tests.serving.server_process import Server


@pytest.fixture(scope="module")
def swapped(base, tmp_path_factory):
    """A server of a copy of the base, which the tests change."""
    path = tmp_path_factory.mktemp("swapped")
    shutil.copytree(base, path, dirs_exist_ok=True)
    with Server(path, grpc_port=0, poll=0.1, drain=20.0) as server:
        yield server


def copy_version(base: Path, old: int, new: int, name: str = "net") -> None:
    shutil.copytree(base / name / str(old), base / name / ".incoming")
    (base / name / ".incoming").rename(base / name / str(new))


def wait_for(what, seconds=20.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    pytest.fail("it did not happen")
    return None


def states(server, name="net"):
    answer = server.ask(f"/v1/models/{name}")[1]
    return {int(row["version"]): row["state"] for row in answer.get("model_version_status", [])}


def test_versions_are_swapped_while_requests_run(swapped):
    failures, answered, stop = [], [], threading.Event()
    wait_for(lambda: states(swapped).get(1) == "AVAILABLE")

    def load():
        while not stop.is_set():
            status, answer, _ = swapped.ask(f"{NET}:predict", ASK_BYTES)
            answered.append(status)
            if status != 200:
                failures.append(answer)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for new in (2, 3):
            copy_version(swapped.base, new - 1, new)
            wait_for(lambda new=new: states(swapped).get(new - 1) == "END")
            shutil.rmtree(swapped.base / "net" / str(new - 1))
        (swapped.base / "net" / "4").mkdir()
        (swapped.base / "net" / "4" / "saved_model.pb").write_bytes(b"no model")
        wait_for(lambda: states(swapped).get(4) == "END")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert len(answered) > 20
    status = swapped.ask(f"{NET}/versions/4")[1]["model_version_status"][0]["status"]
    assert status["error_code"] == "UNKNOWN"
    assert status["error_message"]
    assert swapped.ask(f"{NET}/metadata")[1]["model_spec"]["version"] == "3", "what does not load takes nothing away"
    shutil.rmtree(swapped.base / "net" / "4")
    wait_for(lambda: 4 not in states(swapped))


def test_a_new_model_appears_and_a_removed_one_goes(swapped):
    shutil.copytree(swapped.base / "net" / "3", swapped.base / "other" / "1")
    wait_for(lambda: states(swapped, "other") == {1: "AVAILABLE"})
    shutil.rmtree(swapped.base / "other")
    wait_for(lambda: not states(swapped, "other"))
    assert swapped.ask("/v1/models/other:predict", {"instances": [1]})[0] == 404


def test_labels_from_models_config(swapped):
    early = Client(swapped.address, "net", label="canary")
    with pytest.raises(ServingTimeoutError, match="Unrecognized servable version label: canary"):
        early.wait_until_ready(0.3)
    copy_version(swapped.base, 3, 5)
    label_version(swapped.base / "net", "stable", 3)
    label_version(swapped.base / "net", "canary", 5)
    wait_for(lambda: states(swapped) == {3: "AVAILABLE", 5: "AVAILABLE"})
    for label, version in (("stable", 3), ("canary", 5)):
        for client in (
            Client(swapped.address, "net", label=label),
            GrpcClient(swapped.grpc_address, "net", label=label),
        ):
            client.wait_until_ready(10)
            assert client.metadata().version == version
            assert client.predict(IMAGES)["probabilities"].shape == (3, CLASSES)
            client.close()
    with placed_whole(swapped.base / "models.config") as aside:  # half of it may be a valid configuration
        aside.write_text("model_config_list {", encoding="utf-8")
    time.sleep(0.5)
    assert swapped.ask(f"{NET}/labels/stable/metadata")[0] == 200, "what cannot be read changes nothing"


def test_sigterm_lets_requests_end(swapped):
    """The last of its server: what runs is answered, what comes later finds nobody, and the exit code is 0."""
    answers = []
    port = swapped.port
    thread = threading.Thread(target=lambda: answers.append(swapped.ask(f"{SLOW}:predict", {"instances": [30]})))
    thread.start()
    time.sleep(0.3)
    assert swapped.stop() == 0
    thread.join()
    assert answers[0][:2] == (200, {"predictions": [30.0]})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_models_ls_lists_what_serve_serves(tmp_path):
    for version in ("net/1", "net/2", "net/3", "digits/1"):
        (tmp_path / version).mkdir(parents=True)
        (tmp_path / version / "saved_model.pb").touch()
    label_version(tmp_path / "net", "stable", 1)
    (tmp_path / "unlisted" / "1").mkdir(parents=True)  # in models.config
    (tmp_path / "unlisted" / "1" / "saved_model.pb").touch()
    for place, expected in (
        ("", {("net", 1), ("net", 3), ("digits", 1)}),
        ("net", {("net", 1), ("net", 3)}),
        ("net/1", {("net", 1)}),
        ("digits/1", {("digits", 1)}),
        ("unlisted", {("unlisted", 1)}),
    ):
        listed = {(row.model, row.version) for row in list_versions(tmp_path / place) if row.served}
        found = look(tmp_path / place)
        served = {(name, number) for name, row in found.items() for number in row.config.wanted(row.versions)}
        assert listed == served == expected
