"""Strict YAML: what is read, what is refused, and that nothing is ever raised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.documents import MAX_BYTES, read, read_file

# What YAML can hold without an escape: no controls, no half characters, no byte order marks.
PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=30)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18) + 1, 10**18 - 1) | PRINTABLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PRINTABLE, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", None),
        ("# nothing but a comment\n", None),
        ("a: 1", {"a": 1}),
        ("a: -12", {"a": -12}),
        ("a: 0", {"a": 0}),
        ("a: 1.5", {"a": 1.5}),
        ("a: true\nb: false", {"a": True, "b": False}),
        ("a:\nb: ~\nc: null", {"a": None, "b": None, "c": None}),
        ("a: 127.0.0.1:8080", {"a": "127.0.0.1:8080"}),
        ("a: https://chat.example", {"a": "https://chat.example"}),
        ('"0123": "0123"', {"0123": "0123"}),
        ("a: 'yes'", {"a": "yes"}),
        ("yess: yesterday", {"yess": "yesterday"}),
        ("a: y", {"a": "y"}),
        ("a: |\n  no\n", {"a": "no\n"}),
        ("a: [1, [x, {b: c}]]", {"a": [1, ["x", {"b": "c"}]]}),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 1 # comment\n", {"a": 1}),
        ("---\na: 1\n...\n", {"a": 1}),
    ],
)
def test_what_looks_plain_is_read_as_it_looks(text: str, data: object) -> None:
    document, mistakes = read(text.encode(), "x.yaml")
    assert mistakes == []
    assert document.data == data


AMBIGUOUS = [
    "yes",
    "No",
    "ON",
    "off",
    "True",
    "FALSE",
    "Null",
    "010",
    "0x1F",
    "0b1",
    "1_000",
    "1:30",
    "+1",
]


@pytest.mark.parametrize("word", [*AMBIGUOUS, ".inf", ".NaN", "2026-11-22", "9" * 19, "<<", "="])
@pytest.mark.parametrize(("before", "key"), [("a: ", "a"), ("a: [", "a.0"), ("a: {b: ", "a.b")])
def test_what_readers_of_yaml_disagree_about_needs_quotes(word: str, before: str, key: str) -> None:
    after = {"[": "]", "{": "}"}.get(before.removeprefix("a: ")[:1], "")
    mistakes = read(f"#\n{before}{word}{after}".encode(), "x.yaml")[1]
    assert [(mistake.line, mistake.key) for mistake in mistakes] == [(2, key)]
    assert read(f'{before}"{word}"{after}'.encode(), "x.yaml")[1] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\na: 2", "x.yaml:2: a: expected each key once, got it again (first on line 1)"),
        (b"a: 1\n'a': {b: 1, b: 2}", "x.yaml:2: a: expected each key once, got it again (first on line 1)"),
        (b"a: &x 1", "x.yaml:1: a: expected no anchor, got '&x'"),
        (b"&x a: 1", "x.yaml:1: a: expected a plain key, got one with an anchor or a tag"),
        (b"a: *x", "x.yaml:1: a: expected a value written out, got the alias '*x'"),
        (b"a: !!str 1", "x.yaml:1: a: expected no tag, got 'tag:yaml.org,2002:str'"),
        (b"a: !x {}", "x.yaml:1: a: expected no tag, got '!x'"),
        (b"1: a", 'x.yaml:1: 1: expected a text as key, in quotes ("1":), got 1 without quotes'),
        (b"true: a", 'x.yaml:1: true: expected a text as key, in quotes ("true":), got true without quotes'),
        (b"a:\n  ? [b]\n  : c", "x.yaml:2: a: expected a text as key, got something else"),
        (b"a: 1\n---\nb: 2", "x.yaml:2: expected one document, got a second one"),
        (b"a: 1\nb: \xff", "x.yaml:2: expected UTF-8, got the byte 0xff"),
        ("a: ä".encode("utf-16"), "x.yaml:1: expected UTF-8, got the byte 0xff"),
        (b"#\na: " + b"[" * 17 + b"]" * 17, "x.yaml:2: a: expected at most 16 levels, got more"),
        (b"[" * 100_000, "x.yaml:1: 0: expected at most 16 levels, got more"),
    ],
)
def test_each_refusal_says_where_and_why(content: bytes, message: str) -> None:
    assert [str(mistake) for mistake in read(content, "x.yaml")[1]] == [message]


@pytest.mark.parametrize(
    "content", [b"a: [", b"a: 'x", b"a\0b", b"\tb: 1", b"a: b: c", b"a: \x07", b"%YAML 3.0\n---\na"]
)
def test_what_is_no_yaml_is_one_mistake_with_a_line(content: bytes) -> None:
    document, mistakes = read(b"#\n" + content, "x.yaml")
    assert document.data is None
    assert [(mistake.expected, mistake.line >= 1) for mistake in mistakes] == [("well-formed YAML", True)]


def test_the_line_of_each_part_is_known() -> None:
    document, _ = read(b"a:\n  b: 1\n  c:\n    - x\n    - y: z\n", "x.yaml")
    lines = {path: line for path, (_, line) in document.origins.items()}
    assert lines == {
        (): 1,
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 3,
        ("a", "c", 0): 4,
        ("a", "c", 1): 5,
        ("a", "c", 1, "y"): 5,
    }
    assert document.where(("a", "c", 1, "missing")) == ("x.yaml", 5)
    assert document.where(("nowhere", "at", "all")) == ("x.yaml", 1)


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("nothing", "no such file or directory"),
        ("folder", "a folder"),
        ("file/below", "not a directory"),
        ("large", f"more than {MAX_BYTES} bytes"),
        ("x" * 300, "file name too long"),
        ("a\0b", "an impossible name"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path, name: str, got: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "large").write_bytes(b"#" * (MAX_BYTES + 1))
    _, mistakes = read_file(tmp_path / name, "x.yaml")
    assert [str(mistake) for mistake in mistakes] == [f"x.yaml: expected a readable file, got {got}"]


def test_the_largest_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"#" * MAX_BYTES)
    assert read_file(tmp_path / "file", "x.yaml")[1] == []


@given(
    st.binary(max_size=200) | st.text(alphabet="ab:-[]{}&*!?|>'\"%@#,. \n\t0~<=", max_size=60).map(str.encode)
)
def test_whatever_the_bytes_nothing_is_raised(content: bytes) -> None:
    document, mistakes = read(content, "x.yaml")
    for mistake in mistakes:
        assert str(mistake).isprintable()
        assert mistake.line <= content.count(b"\n") + content.count(b"\r") + 3
    assert document.data is None or isinstance(document.data, str | int | float | list | dict)


@given(JSON_VALUES)
def test_json_means_what_it_says(value: object) -> None:
    document, mistakes = read(json.dumps(value, ensure_ascii=False).encode(), "x.yaml")
    assert mistakes == []
    assert document.data == value
