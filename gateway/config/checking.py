"""Models say what may be written; their complaints become mistakes in plain words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from gateway.config.documents import Document
from gateway.config.mistakes import KeyPath, Mistake, dotted, shown
from gateway.core.messages import Representation

M = TypeVar("M", bound="Model")

#: What pydantic's own complaints mean to an operator. The rest comes from `wrong`.
_WORDS = {
    "missing": "a value",
    "model_type": "a map",
    "dict_type": "a map",
    "mapping_type": "a map",
    "tuple_type": "a list",
    "frozen_set_type": "a list",
    "too_short": "at least one entry",
}


class Model(BaseModel):
    """A part of a document: no unknown keys, and nothing changes afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class Wrong:
    """What a validator has against a value. `got` is None if the value itself can be shown.

    `at` leads from the value to the culprit; or `beside` does, from the model that the value is a field of.
    """

    expected: str
    got: str | None = None
    at: KeyPath = ()
    beside: KeyPath | None = None

    def place(self, loc: KeyPath) -> KeyPath:
        """The culprit's path, for a value at `loc`."""
        return loc + self.at if self.beside is None else loc[:-1] + self.beside


def wrong(
    expected: str, *, got: str | None = None, at: KeyPath = (), beside: KeyPath | None = None
) -> NoReturn:
    """Refuse a value from inside a validator; the parameters are those of `Wrong`."""
    raise _refusal([Wrong(expected, got, at, beside)])


def refuse_any(wrongs: Iterable[Wrong]) -> None:
    """Refuse a value from inside a validator if anything is wrong with it, and say all of it."""
    if found := list(wrongs):
        raise _refusal(found)


def _refusal(wrongs: list[Wrong]) -> PydanticCustomError:
    return PydanticCustomError("wrong", "{expected}", {"expected": wrongs[0].expected, "wrongs": wrongs})


def context_of(info: ValidationInfo) -> Mapping[str, Any]:
    """What `check` was given for its validators."""
    return info.context or {}


def written_as(**schema: object) -> Any:
    """The type of what a validator reads, for JSON Schema, which can't look into functions."""
    return Annotated[Any, WithJsonSchema(schema)]


def whole(low: int, high: int) -> PlainValidator:
    """A whole number within bounds, both included."""

    def read(value: object) -> int:
        if type(value) is int and low <= value <= high:
            return value
        return wrong(f"a whole number from {low} to {high}")

    return PlainValidator(read, written_as(type="integer", minimum=low, maximum=high))


def text(expected: str, pattern: str) -> PlainValidator:
    """A text that matches a pattern as a whole."""
    compiled = re.compile(pattern)

    def read(value: object) -> str:
        if isinstance(value, str) and value.isprintable() and compiled.fullmatch(value):
            return value
        return wrong(expected)

    return PlainValidator(read, written_as(type="string", pattern=f"^(?:{pattern})$"))


def one_of(words: Iterable[str], convert: Callable[[str], object] = str) -> PlainValidator:
    """One of some words."""
    known = tuple(words)

    def read(value: object) -> object:
        return convert(value) if isinstance(value, str) and value in known else wrong(_either(known))

    return PlainValidator(read, written_as(enum=list(known)))


def _flag(value: object) -> bool:
    return value if isinstance(value, bool) else wrong("true or false")


def _listed(value: object) -> object:
    return value if isinstance(value, list | tuple) else wrong("a list", got=_kind(value))


#: true or false, and nothing that pydantic would take for one.
FLAG = PlainValidator(_flag, written_as(type="boolean"))
#: In front of every list: pydantic takes a map for a list of its keys.
LISTED = BeforeValidator(_listed)


RepresentationName = Annotated[
    Representation, one_of([representation.value for representation in Representation], Representation)
]


def check(model: type[M], document: Document, at: KeyPath, context: Mapping[str, Any]) -> M | list[Mistake]:
    """Make a model of the part of a document at `at`, or say all that is wrong with it."""
    part: Any = document.data
    for step in at:
        part = part[step]
    try:
        return model.model_validate(part, context=dict(context))
    except ValidationError as errors:
        details = errors.errors(include_url=False)
        return [mistake for error in details for mistake in _mistakes(model, document, at, error)]


def _mistakes(model: type[Model], document: Document, at: KeyPath, error: ErrorDetails) -> Iterator[Mistake]:
    kind = error["type"]
    loc = tuple(step for step in error["loc"] if step != "[key]")
    path = at + loc
    if kind == "wrong":
        for one in error["ctx"]["wrongs"]:
            place = one.place(path)
            yield document.mistake(place, one.expected, one.got or shown(place, error["input"]))
    elif kind == "extra_forbidden":
        yield document.mistake(path, _likely(str(loc[-1]), _fields(model, loc[:-1])), dotted(loc[-1:]))
    elif kind == "missing":
        yield document.mistake(path, _WORDS[kind], "nothing")
    else:
        yield document.mistake(path, _WORDS.get(kind, error["msg"]), _got(kind, path, error["input"]))


def _got(kind: str, path: KeyPath, value: object) -> str:
    if kind == "too_short":
        return "none"
    return _kind(value) if kind in _WORDS else shown(path, value)


def _kind(value: object) -> str:
    # Where a map or a list belongs, a text may be anything, a secret included.
    return "a text" if isinstance(value, str) else shown((), value)


def _fields(model: type[Model], loc: KeyPath) -> tuple[str, ...]:
    """The names that the model at `loc` knows."""
    steps = iter(loc)
    for step in steps:
        annotation = model.model_fields[str(step)].annotation
        model = _model_in(annotation) or model
        if get_origin(annotation) in (Mapping, tuple):
            next(steps, None)
    return tuple(model.model_fields)


def _model_in(annotation: object) -> type[Model] | None:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)


def _likely(key: str, known: tuple[str, ...]) -> str:
    """What somebody who wrote an unknown key may have meant."""
    return _either(difflib.get_close_matches(key, known, n=1) or known)


def _either(words: Iterable[str]) -> str:
    listed = ", ".join(words)
    return f"one of {listed}" if "," in listed else listed
