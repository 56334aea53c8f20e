"""What the gateway is measured beside: other servers, with configurations of ours in `peers/`."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from gateway.demo.stage import AUDIENCE, ISSUER
from tests.benchmarks.processes import DidNotStart, allow_many_files

TEMPLATES = Path(__file__).with_name("peers")
SECRET = "benchmarks-have-no-secrets-but-this-one-of-48-by"
#: Debian has them where only administrators look.
PROGRAMS = "/usr/sbin:/usr/local/sbin:/sbin"
_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")
_NJS = "ngx_http_js_module.so"
_LEFT = re.compile(r"@[A-Z_]+@")

_FOR_RS256 = {
    "HTTP": "    js_path @FOLDER@;\n    js_import jwt from jwt.js;",
    "SERVER": "        location = /_jwt { internal; js_content jwt.rs256; }",
    "ADMISSION": "            auth_request /_jwt;",
}
_FOR_HS256 = {
    "HTTP": "    js_path @FOLDER@;\n    js_import jwt from jwt.js;\n    js_set $is_good jwt.hs256;",
    "ADMISSION": "            if ($is_good = '') { return 401; }",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """A program, the templates of its files, and its command; both may name `@FOLDER@` and `@PORT@`.

    `token` is how tokens it verifies are signed, None if it verifies none.
    """

    name: str
    program: str
    templates: Sequence[str]
    command: str
    token: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    caches: bool = True

    @property
    def slug(self) -> str:
        """The name, as files have it."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a peer is put: a folder and a port of its own, and the upstream's."""

    folder: Path
    port: int
    upstream: int
    app_key: str
    private_key: bytes = field(repr=False)
    body: bytes = b""


#: Nobody else writes a log: Varnish keeps its in memory, but writes it all the same.
_UNLOGGED = ",".join(
    f"-{tag}"
    for tag in (
        *("ReqMethod", "ReqURL", "ReqProtocol", "ReqHeader", "ReqUnset", "ReqStart", "ReqAcct"),
        *("RespProtocol", "RespStatus", "RespReason", "RespHeader", "RespUnset"),
        *("Begin", "End", "Timestamp", "VCL_call", "VCL_return", "Hit", "Link"),
    )
)
_NGINX = "nginx -e stderr -p @FOLDER@ -c @FOLDER@/nginx.conf"
NGINX = Peer("nginx proxy_cache", "nginx", ("nginx.conf",), _NGINX)
NGINX_RS256 = Peer("nginx + njs JWT (RS256)", "nginx", ("nginx.conf", "jwt.js"), _NGINX, "RS256", _FOR_RS256)
NGINX_HS256 = Peer("nginx + njs JWT (HS256)", "nginx", ("nginx.conf", "jwt.js"), _NGINX, "HS256", _FOR_HS256)
HAPROXY = Peer(
    "HAProxy jwt_verify + cache", "haproxy", ("haproxy.cfg",), "haproxy -db -f @FOLDER@/haproxy.cfg", "RS256"
)
VARNISH = Peer(
    "Varnish with grace",
    "varnishd",
    ("varnish.vcl",),
    "varnishd -F -j none -n @FOLDER@/work -a 127.0.0.1:@PORT@ -f @FOLDER@/varnish.vcl -s malloc,1g"
    " -p thread_pools=1 -p thread_pool_min=100 -p thread_pool_max=1000 -p vsl_mask=" + _UNLOGGED,
)
LIMIT = Peer(
    "nginx return 200",
    "nginx",
    ("return.conf",),
    "nginx -e stderr -p @FOLDER@ -c @FOLDER@/return.conf",
    caches=False,
)
PEERS = (NGINX, NGINX_RS256, NGINX_HS256, HAPROXY, VARNISH, LIMIT)
CACHES = tuple(peer for peer in PEERS if peer.caches)


def prepare(peer: Peer, site: Site) -> list[str]:
    """Write the peer's files and return its command. Raises DidNotStart if it is not installed."""
    program = which(peer.program)
    if program is None:
        raise DidNotStart(f"{peer.program} is not installed; `make bench-deps` does that on Debian")
    public = load_pem_private_key(site.private_key, None).public_key()
    (site.folder / "public.pem").write_bytes(
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    names = _names(peer, site) | {"SPKI": base64.b64encode(spki).decode()}
    for template in peer.templates:
        (site.folder / template).write_text(filled((TEMPLATES / template).read_text(), names))
    words = filled(peer.command, names).split()
    return [program, *words[1:]]


def filled(template: str, names: Mapping[str, str]) -> str:
    """The template with each `@NAME@` replaced, also those inside what is put in. Raises KeyError."""
    while found := _LEFT.search(template):
        template = template.replace(found[0], names[found[0].strip("@")])
    return template


def which(program: str) -> str | None:
    """Where a program is installed, if it is."""
    return shutil.which(program) or shutil.which(program, path=PROGRAMS)


def _names(peer: Peer, site: Site) -> dict[str, str]:
    files = allow_many_files()
    return {
        **dict.fromkeys(("MODULES", "HTTP", "SERVER", "ADMISSION"), ""),
        **peer.parts,
        "MODULES": _load_njs() if "jwt.js" in peer.templates else "",
        "FOLDER": str(site.folder),
        "PORT": str(site.port),
        "UPSTREAM": str(site.upstream),
        "FILES": str(files),
        "CONNECTIONS": str(min(files // 2 - 100, 50_000)),
        "APP_KEY": site.app_key,
        "ISSUER": ISSUER,
        "AUDIENCE": AUDIENCE,
        "SECRET": SECRET,
        "BODY": site.body.decode(),
    }


def _load_njs() -> str:
    for folder in _MODULES:
        module = Path(folder, _NJS)
        if module.exists():
            return f"load_module {module};"
    raise DidNotStart(f"nginx: expected {_NJS} in one of {', '.join(_MODULES)}, got none")
