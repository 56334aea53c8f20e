"""`python -m tests.supply.sbom FILE`: what an installation consists of, as CycloneDX 1.6 in JSON.

Names, versions and hashes are the lock's; licences, and who needs whom, are what the installed packages say
of themselves. Equal locks make equal files: the only time in it is SOURCE_DATE_EPOCH, where that is set.
"""

from __future__ import annotations

import json
import os
import re
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).parents[2] / "requirements.txt"
ROOT = "chat-gateway"

_PINNED = re.compile(r"([a-z0-9-]+)==([^\s;]+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pinned:
    """A package of the lock; each hash is that of one of its files (SHA-256, in hex)."""

    name: str
    version: str
    hashes: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Its package URL, which says nothing about where it was fetched from."""
        return f"pkg:pypi/{self.name}@{self.version}"


def read_lock(text: str) -> tuple[Pinned, ...]:
    """What a lock names. Raises ValueError for anything but pinned packages with their hashes."""
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    other = _PINNED.sub("", text).strip()
    if other:
        raise ValueError(f"the lock: expected nothing but name==version with hashes, got {other[:80]!r}")
    return tuple(
        Pinned(name, version, tuple(re.findall(r"sha256:(\w+)", hashes)))
        for name, version, hashes in _PINNED.findall(text)
    )


def sbom(lock: tuple[Pinned, ...], epoch_s: int | None) -> Json:
    """The whole document. Raises ValueError if what is installed is not what the lock names."""
    root = distribution(ROOT)
    refs = {ROOT: f"pkg:pypi/{ROOT}@{root.version}", **{pinned.name: pinned.purl for pinned in lock}}
    components = [_component(pinned) for pinned in lock]
    told: Json = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components))}",
        "version": 1,
        "metadata": {
            "authors": [{"name": "The chat-gateway authors"}],
            "component": {"type": "application", **_named(root, refs[ROOT])},
        },
        "components": components,
        "dependencies": [
            {"ref": refs[name], "dependsOn": [refs[other] for other in sorted(needed) if other in refs]}
            for name, needed in sorted(_needs().items())
            if name in refs
        ],
    }
    if epoch_s is not None:
        told["metadata"]["timestamp"] = datetime.fromtimestamp(epoch_s, UTC).isoformat()
    return told


def _component(pinned: Pinned) -> Json:
    installed = distribution(pinned.name)
    if installed.version != pinned.version:
        raise ValueError(
            f"{pinned.name}: expected {pinned.version}, as in the lock, got {installed.version} installed"
        )
    hashes = [{"alg": "SHA-256", "content": content} for content in pinned.hashes]
    files = {"type": "distribution", "url": pinned.purl, "comment": "one of these files", "hashes": hashes}
    return {"type": "library", **_named(installed, pinned.purl), "externalReferences": [files]}


def _named(installed: Distribution, purl: str) -> Json:
    name = canonicalize_name(installed.metadata["Name"])
    licenses = list(_licenses(installed))
    return {
        "bom-ref": purl,
        "name": name,
        "version": installed.version,
        "purl": purl,
        **({"licenses": licenses} if licenses else {}),
    }


def _licenses(installed: Distribution) -> Iterator[Json]:
    """An SPDX expression where there is one (PEP 639), or what older packages say instead."""
    metadata = installed.metadata
    if "License-Expression" in metadata:
        yield {"expression": metadata["License-Expression"]}
        return
    classified = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier", [])
        if line.startswith("License :: ")
    ]
    # Some have the whole text here.
    said = [metadata["License"]] if "License" in metadata and "\n" not in metadata["License"] else []
    for name in classified or said:
        yield {"license": {"name": name}}


def _needs() -> Mapping[str, set[str]]:
    """Package → what it needs here, from the gateway on; extras count where somebody asks for them."""
    needs: dict[str, set[str]] = {}
    seen = set[tuple[str, str]]()
    to_do = [(ROOT, "")]
    while to_do:
        name, extra = step = to_do.pop()
        if step in seen:
            continue
        seen.add(step)
        for needed, extras in _required(name, extra):
            needs.setdefault(name, set()).add(needed)
            to_do += [(needed, ""), *((needed, extra) for extra in extras)]
        needs.setdefault(name, set())
    return needs


def _required(name: str, extra: str) -> Iterator[tuple[str, set[str]]]:
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield canonicalize_name(requirement.name), requirement.extras


def main(path: Path) -> None:
    """Writes the file."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    told = sbom(read_lock(LOCK.read_text()), int(epoch) if epoch else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=2) + "\n")
    print(f"{path}: {len(told['components'])} packages")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
