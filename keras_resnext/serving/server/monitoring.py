"""Figures for Prometheus, under the names that TF Serving gives them (servables/tensorflow/util.cc).

Written by hand: the usual library adds `_total` to every counter, and dashboards of TF Serving know none.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

PATH = "/monitoring/prometheus/metrics"
LATENCIES = tuple(10 * 1.8**power for power in range(33))  # microseconds, as TF Serving's buckets
SIZES = tuple(float(2**power) for power in range(11))

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters and histograms; any thread may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, tuple[tuple[float, ...], dict[Labels, list[float]]]] = {}

    def request(self, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """A request that has been answered or refused."""
        self._count(":tensorflow:serving:request_count", {"model_name": model, "status": status})
        labels = {"model_name": model, "API": api, "entrypoint": entrypoint}
        self._observe(":tensorflow:serving:request_latency", labels, seconds * 1e6, LATENCIES)

    def runtime(self, model: str, seconds: float) -> None:
        """A run of a network."""
        labels = {"model_name": model, "API": "Predict", "runtime": "TF1"}
        self._observe(":tensorflow:serving:runtime_latency", labels, seconds * 1e6, LATENCIES)

    def batch(self, model: str, rows: int, waits: Iterable[float]) -> None:
        """A batch about to run, and the seconds that each of its requests waited."""
        self._observe(":keras_resnext:serving:batch_rows", {"model_name": model}, rows, SIZES)
        for wait in waits:
            name = ":tensorflow:serving:batching_session:queuing_latency"
            self._observe(name, {"model_name": model}, wait * 1e6, LATENCIES)

    def render(self, gauges: Mapping[str, float]) -> str:
        """All figures and `gauges` in Prometheus's text format."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines(gauges))

    def _lines(self, gauges: Mapping[str, float]) -> Iterator[str]:
        for name, value in sorted(gauges.items()):
            yield f"# TYPE {name} gauge"
            yield f"{name} {value:g}"
        for name, series in sorted(self._counters.items()):
            yield f"# TYPE {name} counter"
            for labels, value in sorted(series.items()):
                yield f"{name}{_text(labels)} {value:.17g}"
        for name, (bounds, rows) in sorted(self._histograms.items()):
            yield f"# TYPE {name} histogram"
            for labels, values in sorted(rows.items()):
                total = 0.0
                for bound, count in zip((*bounds, float("inf")), values[1:], strict=True):
                    total += count
                    yield f"{name}_bucket{_text((*labels, ('le', f'{bound:g}'.replace('inf', '+Inf'))))} {total:.17g}"
                yield f"{name}_sum{_text(labels)} {values[0]:.17g}"
                yield f"{name}_count{_text(labels)} {total:.17g}"

    def _count(self, name: str, labels: Mapping[str, str]) -> None:
        with self._lock:
            series = self._counters.setdefault(name, {})
            key = tuple(labels.items())
            series[key] = series.get(key, 0.0) + 1

    def _observe(self, name: str, labels: Mapping[str, str], value: float, bounds: tuple[float, ...]) -> None:
        with self._lock:
            _, rows = self._histograms.setdefault(name, (bounds, {}))
            values = rows.setdefault(tuple(labels.items()), [0.0] * (len(bounds) + 2))
            values[0] += value
            values[1 + bisect_left(bounds, value)] += 1


def _text(labels: Labels) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels) + "}"
