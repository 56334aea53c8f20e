from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.identity.keysets import MAX_BYTES, KeyFile, KeySetError

GetPair = Callable[..., tuple[bytes, bytes]]
LISTED = frozenset({"ES256", "EdDSA"})


def swap(folder: Path, name: str, data: bytes) -> Path:
    """Publishes a file as kubelet does: a new folder, and a link to it that changes in one step."""
    version = folder / f"..{name}"
    version.mkdir()
    (version / "jwks.json").write_bytes(data)
    link = folder / "..new"
    link.symlink_to(version.name)
    link.rename(folder / "..data")
    path = folder / "jwks.json"
    if not path.is_symlink():
        path.symlink_to("..data/jwks.json")
    return path


def test_a_swapped_link_is_read_through(tmp_path: Path, pair: GetPair) -> None:
    file = KeyFile(swap(tmp_path, "1", pair("ES256")[1]), LISTED)
    first = file.current
    assert file.adopt(KeyFile(swap(tmp_path, "2", pair("EdDSA")[1]), LISTED))
    assert file.current is not first
    assert file.current.keys[0].algorithms == {"EdDSA"}


def test_the_same_content_is_no_change(tmp_path: Path, pair: GetPair) -> None:
    file = KeyFile(swap(tmp_path, "1", pair("ES256")[1]), LISTED)
    first = file.current
    assert not file.adopt(KeyFile(swap(tmp_path, "2", pair("ES256")[1]), LISTED))
    assert file.current is first


@pytest.mark.parametrize("bad", [b"", b'{"keys":[]}', b"x" * (MAX_BYTES + 1), None])
def test_bad_content_is_refused_by_the_name_of_its_file(tmp_path: Path, bad: bytes | None) -> None:
    path = tmp_path / "jwks.json"
    if bad is not None:
        path.write_bytes(bad)
    with pytest.raises(KeySetError) as refused:
        KeyFile(path, LISTED)
    assert all(fault.startswith(f"{path}: expected ") for fault in refused.value.faults)


def test_a_bad_start_raises(tmp_path: Path, pair: GetPair) -> None:
    path = tmp_path / "jwks.json"
    with pytest.raises(KeySetError, match=r"jwks\.json: expected a file that can be read, got: No such file"):
        KeyFile(path, LISTED)
    path.write_bytes(pair("RS256")[1])
    with pytest.raises(KeySetError, match=r"jwks\.json: keys\[0\]: expected a key for ES256 or EdDSA"):
        KeyFile(path, LISTED)
    with pytest.raises(KeySetError, match="got: Is a directory"):
        KeyFile(tmp_path, LISTED)


def test_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"s" * 32 + b"\n")
    assert KeyFile(path, frozenset({"HS256"}), "secret").current.find(None, "HS256")
    with pytest.raises(KeySetError, match="expected an issuer that lists HS256"):
        KeyFile(path, LISTED, "secret")


def test_reading_is_bounded() -> None:
    with pytest.raises(KeySetError, match="expected at most"):
        KeyFile(Path("/dev/zero"), LISTED)
