"""Each file in `bad/` holds one mistake and says, in its first lines, what it is told for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load import load

BAD = sorted((Path(__file__).parent / "bad").glob("*.yaml"))


def test_the_fixtures_were_found() -> None:
    assert len(BAD) > 110


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_gets_exactly_the_message_it_expects(path: Path) -> None:
    lines = path.read_text().splitlines()
    expected = [line.removeprefix("# expect: ") for line in lines if line.startswith("# expect: ")]
    loaded = load(path, {})
    assert [str(mistake) for mistake in loaded.mistakes] == expected != []
    assert loaded.settings is None
