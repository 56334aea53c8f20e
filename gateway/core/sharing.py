"""What one replica hears of the upstream, as the others take it over."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gateway.core.answers import Undressed
from gateway.core.freshness import Contact


@dataclass(frozen=True, slots=True)
class Told:
    """An answer that another replica asked for at `sent_at`, and what it knew of the chat then.

    Times are seconds of the reader's own monotonic clock. `was_awaited`: it is what a flight has brought
    that this replica waited for. All look for a newer one from `refresh_at` on.
    """

    heard: Undressed
    contact: Contact
    sent_at: float
    round_trip_s: float
    was_awaited: bool = False
    refresh_at: float = -math.inf
