"""The Server Chat API, emulated: for the demo, the tests and the benchmarks."""

from gateway.emulator.chats import Event, UnknownChatError
from gateway.emulator.config import MAPPED, NATIVE, AgentScript, Dialect, EmulatorConfig, JsonStyle
from gateway.emulator.faults import Fault
from gateway.emulator.messages import (
    Drip,
    Drop,
    EmulatorRequest,
    EmulatorResponse,
    Hang,
    Reset,
    Truncate,
    Whole,
)
from gateway.emulator.server import EmulatorServer, serve
from gateway.emulator.service import ChatState, CountKey, Counts, Emulator, WrongStateError

__all__ = [
    "MAPPED",
    "NATIVE",
    "AgentScript",
    "ChatState",
    "CountKey",
    "Counts",
    "Dialect",
    "Drip",
    "Drop",
    "Emulator",
    "EmulatorConfig",
    "EmulatorRequest",
    "EmulatorResponse",
    "EmulatorServer",
    "Event",
    "Fault",
    "Hang",
    "JsonStyle",
    "Reset",
    "Truncate",
    "UnknownChatError",
    "Whole",
    "WrongStateError",
    "serve",
]
