"""A folder with everything a gateway needs to run: keys it makes, a configuration, policies.

For the demo and for the tests: nothing in it is worth protecting.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

import gateway
from gateway.identity.development import kid_of, mint, write_key_pair

ISSUER = "https://issuer.example"
AUDIENCE = "chat-gateway"
#: RSA keys take their time to make.
ALGORITHM = "ES256"
ACCOUNT = "123"


def shipped_policies() -> Path:
    """The policies that come with the package: inside the wheel, or beside the package in a checkout."""
    package = Path(gateway.__file__).parent
    inside = package / "policies"
    return inside if inside.is_dir() else package.parent / "policies"


@dataclass(frozen=True, slots=True)
class Stage:
    """What was written. `config` is the path of `gateway.yaml`; `wall` is the clock of the tokens.

    `admin_token` opens the private listener.
    """

    config: Path
    private_key: bytes = field(repr=False)
    admin_token: str = field(repr=False)
    wall: Callable[[], float] = time.time
    algorithm: str = ALGORITHM

    def token(self, subject: str = "bff", lifetime_s: float = 3600.0, **claims: object) -> str:
        """A token for one of the clients of the shipped policies."""
        said = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "exp": int(self.wall() + lifetime_s)}
        return mint(self.private_key, self.algorithm, kid_of(self.private_key), said | claims)

    def configure(self, name: str, **settings: object) -> Path:
        """Write a second configuration beside the first, with other settings; where it is."""
        said = yaml.safe_load(self.config.read_text())
        path = self.config.with_name(name)
        path.write_text(yaml.safe_dump(said | settings, sort_keys=False))
        return path


def set_stage(
    folder: Path,
    *,
    listen: str,
    admin_listen: str,
    public_url: str,
    upstream_url: str,
    app_key: str,
    algorithm: str = ALGORITHM,
    from_info: bool = False,
    **settings: object,
) -> Stage:
    """Write configuration, policies and keys into `folder`. `settings` go into `gateway.yaml` as they are.

    `from_info` switches on in the policies what they come with switched off.
    """
    private, jwks = write_key_pair(folder, algorithm)
    app_key_file = folder / "app-key"
    app_key_file.write_text(app_key + "\n")
    admin_token = secrets.token_urlsafe(24)
    (folder / "admin-token").write_text(admin_token + "\n")
    shutil.copytree(shipped_policies(), folder / "policies")
    if from_info:
        _switch_on(folder / "policies" / "resources.yaml")
    issuer = {"issuer": ISSUER, "audience": AUDIENCE, "algorithms": [algorithm], "jwks": jwks.name}
    configuration = {
        "listen": listen,
        "admin_listen": admin_listen,
        "admin": {"token_file": "admin-token"},
        "revocations": {"journal": "revocations.jsonl"},
        "public_url": public_url,
        "policies": "policies/",
        "accounts": {ACCOUNT: {"upstream": upstream_url, "app_key_file": app_key_file.name}},
        "issuers": [issuer],
    }
    config = folder / "gateway.yaml"
    config.write_text(yaml.safe_dump(configuration | settings, sort_keys=False))
    return Stage(config, private.read_bytes(), admin_token, algorithm=algorithm)


def _switch_on(resources: Path) -> None:
    resources.write_text(resources.read_text().replace("# from_info: true", "from_info: true"))
