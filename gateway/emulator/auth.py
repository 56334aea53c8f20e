"""Which requests the service lets in: the account, the version, the key, in this order."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.emulator.calls import UNKNOWN, Call, RefusedError
from gateway.emulator.config import EmulatorConfig

_PROBLEM = "Bad authorization request. general_problem="


def admit(call: Call, config: EmulatorConfig, app_keys: Sequence[str]) -> None:
    """Pass, or raise RefusedError. Domain discovery needs neither a version of this API nor a key."""
    place = call.place
    if place.resource == "discovery":
        if place.account not in config.accounts:
            raise RefusedError(401, 10, "invalid site or agent")
        return
    if place.resource == UNKNOWN or place.account not in config.accounts:
        status = 404 if place.resource == UNKNOWN else config.dialect.unknown_account_status
        raise RefusedError(status, 28, f"null for uri: {call.request.target.decode('latin-1')}")
    if call.argument("v") != "1":
        raise RefusedError(config.dialect.missing_version_status, 5, "Missing or unsupported version")
    _check_key(call, config, app_keys)


def _check_key(call: Call, config: EmulatorConfig, app_keys: Sequence[str]) -> None:
    authorization = call.request.header(b"authorization")
    if authorization is None:
        key = call.argument("appKey")
        if key is None:
            raise RefusedError(config.dialect.missing_key_status, 10, f"{_PROBLEM}missing_authorization")
    else:
        scheme, _, parameters = authorization.decode("latin-1").partition(" ")
        name, _, key = parameters.partition("=")
        if (scheme, name) != ("LivePerson", "appKey"):
            raise RefusedError(
                config.dialect.foreign_scheme_status,
                5,
                f"{_PROBLEM}unknown_authorization_type&authorization_type={scheme}",
            )
    if key not in app_keys:
        raise RefusedError(config.dialect.wrong_key_status, 10, f"{_PROBLEM}unknown_app_key")
