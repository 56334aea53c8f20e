"""CVE-2022-29217: PyJWT let a public key in some formats be an HMAC secret.

Here a key is for its own algorithm only.
"""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tests.advisories.attack import Forge, hmac_signed, rejected
from tests.support import World

pytestmark = pytest.mark.anyio


def forms(private: bytes) -> dict[str, bytes]:
    """The public key, in all forms that somebody may have taken for a secret."""
    key = load_pem_private_key(private, None).public_key()
    spki = PublicFormat.SubjectPublicKeyInfo
    pem, der = key.public_bytes(Encoding.PEM, spki), key.public_bytes(Encoding.DER, spki)
    return {
        "PEM": pem,
        "stripped": pem.strip(),
        "DER": der,
        "base64": base64.b64encode(der),
        "CRLF": pem.replace(b"\n", b"\r\n"),
    }


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("with_kid", [True, False])
async def test_a_public_key_is_no_secret(here: World, forge: Forge, alg: str, with_kid: bool) -> None:
    header = forge.header(alg=alg) if with_kid else forge.header(alg=alg, kid=None)
    for secret in forms(forge.private).values():
        await rejected(here, hmac_signed(header, forge.claims(), secret))
