"""What a host counts, for Prometheus, at http://127.0.0.1:PORT/metrics; no name of a client, no byte of a tensor."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from ..errors import HostUnavailable, UnsupportedOption
from ..split.telling import BOUNDS
from ..wire.watch import Stats
from .watching import Watch

LOCAL = "127.0.0.1"
GAUGES = {
    "sessions": "sessions that the host keeps",
    "connections": "connections of clients",
    "session_bytes": "bytes that all sessions keep",
    "session_bytes_limit": "bytes that all sessions may keep",
    "queue_steps": "steps that wait for their turn",
    "queue_steps_limit": "steps that may wait",
}
COUNTERS = {
    "steps": "steps answered",
    "hits": "steps that found what their session remembers",
    "misses": "steps whose session, or what it remembered, was gone",
    "evictions": "sessions that were made to forget",
    "refused": "steps answered with Busy: the queue was full, or the memory taken by steps under way",
}


def values(stats: Stats) -> dict[str, int]:
    """The number behind each of GAUGES and COUNTERS."""
    return {
        "sessions": len(stats.sessions),
        "connections": stats.connections,
        "session_bytes": stats.memory,
        "session_bytes_limit": stats.limit,
        "queue_steps": stats.queued,
        "queue_steps_limit": stats.queue,
    } | {name: getattr(stats, name) for name in COUNTERS}


class Metrics:
    """A collector of prometheus_client: all is read when it is asked for, and there is nothing before `watch`."""

    def __init__(self) -> None:
        self.watch: Watch | None = None
        self.address = ""
        self._server: Any = None

    def serve(self, port: int) -> None:
        """Answer on this machine's loopback; port 0 takes a free one.

        Raises UnsupportedOption without the package, HostUnavailable where the port is taken.
        """
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            missing = "--metrics-port needs the package prometheus-client; pip install prometheus-client"
            raise UnsupportedOption(f"{missing}, or leave the option out.") from None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            self._server, _ = start_http_server(port, LOCAL, registry)
        except (OSError, OverflowError) as err:
            taken = getattr(err, "errno", None) == errno.EADDRINUSE
            why = "is in use by another program" if taken else "cannot be listened on"
            raise HostUnavailable(
                f"Port {port} of {LOCAL} {why}; take another --metrics-port, or 0 for a free one."
            ) from None
        self.address = f"http://{LOCAL}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def collect(self) -> Iterator[Any]:
        """Every metric as it is now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        if self.watch is None:
            return
        now = values(Stats.read(self.watch.told(None, "stats")))
        for name, says in GAUGES.items():
            yield GaugeMetricFamily(f"lsplit_{name}", says, now[name])
        for name, says in COUNTERS.items():
            yield CounterMetricFamily(f"lsplit_{name}", says, now[name])
        stages = HistogramMetricFamily("lsplit_stage_seconds", "seconds of a step, by stage", labels=["stage"])
        for stage, spent in self.watch.body.pool.spent.items():
            total, buckets = 0, []
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), list(spent.counts), strict=True):
                total += count
                buckets.append((bound, total))
            stages.add_metric([stage], buckets, spent.total)
        yield stages
        for at, share in enumerate(("p50", "p95")):
            recent = GaugeMetricFamily(f"lsplit_stage_{share}_seconds", f"{share} of the last steps", labels=["stage"])
            for stage, spent in self.watch.body.pool.spent.items():
                recent.add_metric([stage], spent.percentiles()[at] / 1e6)
            yield recent
