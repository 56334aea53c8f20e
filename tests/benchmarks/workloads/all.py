"""The workloads by the names that `--only` knows, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.benchmarks.figures import Result
from tests.benchmarks.ground import Ground, Scale
from tests.benchmarks.workloads import (
    a_hot_chat,
    b_many_tokens,
    c_many_chats,
    curves,
    d_bursts,
    e_forwarding,
    f_idle,
    features,
    g_memory,
    h_replicas,
    i_watched,
    start,
)

WORKLOADS: Mapping[str, Callable[[Ground, Scale], Result]] = {
    "a": a_hot_chat.run,
    "b": b_many_tokens.run,
    "features": features.run,
    "c": c_many_chats.run,
    "d": d_bursts.run,
    "e": e_forwarding.run,
    "f": f_idle.run,
    "g": g_memory.run,
    "h": h_replicas.run,
    "i": i_watched.run,
    "curves": curves.run,
    "start": start.run,
}
