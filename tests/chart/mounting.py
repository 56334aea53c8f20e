"""What a pod of the chart would find mounted, as files."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from tests.chart.rendering import Json, Values, objects, of_kind
from tests.identity_provider import CA_FILE, certified


def secrets(folder: Path) -> Mapping[str, bytes]:
    """What might be in the files of the profiles, by the key of Secret or ConfigMap."""
    certified(folder)
    return {
        **dict.fromkeys(("app-key", "next-app-key", "password", "sentinel-password"), b"c0ntent-of-a-file\n"),
        "admin-token": b"0123456789abcdef" * 4,
        "secret": b"0123456789abcdef" * 4,
        "encryption-key": base64.b64encode(bytes(32)) + b"\n",
        "ca.crt": (folder / CA_FILE).read_bytes(),
        # Both in one, as both settings take it.
        **dict.fromkeys(("tls.crt", "tls.key"), (folder / "server.pem").read_bytes()),
    }


def mount(values: Values, folder: Path) -> None:
    """The configuration of the Deployment as kubelet would lay it down, with secrets made up."""
    content = secrets(folder.parent)
    found = objects(values)
    maps = {each["metadata"]["name"]: each["data"] for each in found if each["kind"] == "ConfigMap"}
    volumes: list[Json] = of_kind(found, "Deployment")["spec"]["template"]["spec"]["volumes"]
    (sources,) = (each["projected"]["sources"] for each in volumes if each["name"] == "configuration")
    for source in sources:
        ((_, said),) = source.items()
        for item in said["items"]:
            path = folder / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            own = maps.get(said["name"], {}).get(item["key"]) if "configMap" in source else None
            path.write_bytes(content[item["key"]] if own is None else own.encode())
