"""savedmodels/ for its tests: its files, the messages that read them, and the flags of TF Serving."""

import re
from pathlib import Path

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


def flags(arguments):
    """--NAME=VALUE arguments as a dictionary; each must be a flag of TF Serving's, given once."""
    pairs = [re.fullmatch(r"--(\w+)=(.+)", argument) for argument in arguments]
    assert all(pairs), arguments
    found = dict(pair.groups() for pair in pairs)
    assert len(found) == len(pairs), arguments
    assert set(found) <= FLAGS, set(found) - FLAGS
    return found


def container():
    return documents("kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]["containers"][0]
