"""What can go wrong on the way upstream, and what is to come of it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.faults.ground import DEADLINE_S
from tests.faults.proxy import Door, End, Fault, Way

#: Within the deadline, and past it.
_SOON_S, _TOO_LATE_S = DEADLINE_S / 10, DEADLINE_S * 1.5


@dataclass(frozen=True, slots=True)
class Case:
    """`problem` is what a request over a new connection ends with; None, that it is answered.

    `asks` tells whether a whole request comes as far as the fault, `hears` whether the upstream hears of it.
    None is either.
    """

    fault: Fault
    problem: str | None = None
    asks: bool = True
    hears: bool | None = True

    def cuts_before_head(self, head_bytes: int) -> bool:
        """Whether it closes a connection before the whole head of an answer, which is so long."""
        return self.problem == "upstream-reset" and (
            self.fault.down.passes is None or self.fault.down.passes < head_bytes
        )


def _cuts(end: End, name: str) -> dict[str, Case]:
    """The ends of connections after so many bytes of the question or of the answer."""
    problem = "upstream-timeout" if end is End.SILENCE else "upstream-reset"
    question = {
        f"{name} after {passes} of the question": Case(
            Fault(up=Way(passes=passes, end=end)), problem, hears=False
        )
        for passes in (0, 1, 100)
    }
    answer = {
        f"{name} after {passes} of the answer": Case(Fault(down=Way(passes=passes, end=end)), problem)
        for passes in (0, 20, 85)
    }
    return question | answer


CASES = {
    "late": Case(Fault(up=Way(latency_s=_SOON_S), down=Way(latency_s=_SOON_S))),
    "unevenly late": Case(Fault(up=Way(jitter_s=_SOON_S), down=Way(jitter_s=_SOON_S))),
    "a narrow way": Case(
        Fault(up=Way(piece_bytes=100, every_s=0.005), down=Way(piece_bytes=200, every_s=0.005))
    ),
    "drips": Case(Fault(down=Way(piece_bytes=40, every_s=0.001))),
    "drips past the deadline": Case(Fault(down=Way(piece_bytes=1, every_s=0.02)), "upstream-timeout"),
    "asks in drips past the deadline": Case(
        Fault(up=Way(piece_bytes=1, every_s=0.02)), "upstream-timeout", hears=False
    ),
    "too late": Case(Fault(down=Way(latency_s=_TOO_LATE_S)), "upstream-timeout"),
    "asks too late": Case(Fault(up=Way(latency_s=_TOO_LATE_S)), "upstream-timeout", hears=None),
    **_cuts(End.RESET, "reset"),
    **_cuts(End.CLOSE, "closed"),
    **_cuts(End.HALF_CLOSE, "half-closed"),
    **_cuts(End.SILENCE, "silence"),
    "reset at once": Case(Fault(at_once=End.RESET), "upstream-reset", asks=False, hears=False),
    "closed at once": Case(Fault(at_once=End.CLOSE), "upstream-reset", asks=False, hears=False),
    "refused": Case(Fault(door=Door.SHUT), "upstream-unreachable", asks=False, hears=False),
    "black hole": Case(Fault(door=Door.BLACK_HOLE), "upstream-timeout", asks=False, hears=False),
}
#: Those that meet new connections only.
AT_THE_DOOR = {"reset at once", "closed at once", "refused", "black hole"}
