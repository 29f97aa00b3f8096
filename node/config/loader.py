"""Reads configuration files: YAML with the place of every value, environment overrides, all mistakes at once.

An environment variable ``REDIS_CANAL__HTTP__LISTEN=…`` replaces ``http.listen`` of node.yaml; names are lower-cased,
``-`` in a key is written as ``_``, and the value is read as YAML. Messages name file, line and column, and for an
unknown key the nearest known one.
"""

from __future__ import annotations

import difflib
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from canal.errors import ConfigError
from node.config.models import ConsoleConfig, NodeConfig, TaskSpec

M = TypeVar("M", bound=BaseModel)
Place = tuple[str | int, ...]
ENV_PREFIX = "REDIS_CANAL__"
_SECRETS = {"password", "passwd", "secret", "token", "auth"}


class ConfigProblems(ConfigError):
    """All that is wrong with a file. ``problems``: one line each, beginning with file, line and column."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = [_one_line(problem) for problem in problems]
        super().__init__("; ".join(self.problems))


def _one_line(text: str) -> str:
    """``text`` without line breaks and control characters: a file may hold anything."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


@dataclass(slots=True)
class Document:
    """A parsed file: its plain value, and where each key (or list item) stands, lines and columns from 1."""

    name: str
    value: Any = None
    keys: dict[Place, tuple[int, int]] = field(default_factory=dict)
    from_env: dict[Place, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def at(self, place: Place) -> str:
        """``file:line:column`` of a place, of its nearest enclosing one when it is missing itself."""
        for depth in range(len(place), -1, -1):
            if place[:depth] in self.from_env:
                return self.from_env[place[:depth]]
            if place[:depth] in self.keys:
                line, column = self.keys[place[:depth]]
                return f"{self.name}:{line}:{column}"
        return self.name


def load_node(path: Path, environ: Mapping[str, str] | None = None) -> NodeConfig:
    """Read node.yaml. Raises `ConfigProblems`."""
    return load(NodeConfig, path, environ)


def load_console(path: Path, environ: Mapping[str, str] | None = None) -> ConsoleConfig:
    """Read console.yaml. Raises `ConfigProblems`."""
    return load(ConsoleConfig, path, environ)


def load_task(path: Path) -> TaskSpec:
    """Read task.yaml, which the environment does not change. Raises `ConfigProblems`."""
    return load(TaskSpec, path, {})


def load(model: type[M], path: Path, environ: Mapping[str, str] | None = None) -> M:
    """Read ``path`` as ``model``, overridden by ``environ`` (default: this process's). Raises `ConfigProblems`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigProblems([f"{path}: cannot be read: {error.strerror or error}"]) from None
    except UnicodeDecodeError:
        raise ConfigProblems([f"{path}: is not UTF-8 text"]) from None
    return parse(model, text, str(path), os.environ if environ is None else environ)


def parse(model: type[M], text: str, name: str, environ: Mapping[str, str] | None = None) -> M:
    """Read ``text`` as ``model``; ``name`` stands for the file in messages. Raises `ConfigProblems`."""
    document = compose(text, name)
    _override(document, environ or {})
    if not isinstance(document.value, dict):
        raise ConfigProblems([*document.problems, f"{name}: expected keys and values, got {_kind(document.value)}"])
    try:
        found = model.model_validate(document.value)
    except ValidationError as error:
        raise ConfigProblems(document.problems + _explain(error, model, document)) from None
    if document.problems:
        raise ConfigProblems(document.problems)
    return found


def compose(text: str, name: str) -> Document:
    """Parse YAML, keeping places; a key that stands twice is a problem. Raises `ConfigProblems` for broken YAML."""
    document = Document(name)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document.value = {} if root is None else _plain(root, (), document, set())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigProblems([f"{where}: not valid YAML: {error.problem}"]) from None
    except yaml.YAMLError as error:
        raise ConfigProblems([f"{name}: not valid YAML: {str(error).splitlines()[0]}"]) from None
    return document


def _plain(node: yaml.Node, place: Place, document: Document, above: set[int]) -> Any:
    document.keys.setdefault(place, (node.start_mark.line + 1, node.start_mark.column + 1))
    if id(node) in above:
        raise yaml.YAMLError("an alias that contains itself")
    above = above | {id(node)}
    if isinstance(node, yaml.MappingNode):
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else str(_scalar(key_node))
            inner = (*place, key)
            mark = key_node.start_mark
            if key in found:
                document.problems.append(
                    f"{document.name}:{mark.line + 1}:{mark.column + 1}: {_dotted(inner)} stands twice"
                )
            document.keys[inner] = (mark.line + 1, mark.column + 1)
            found[key] = _plain(value_node, inner, document, above)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*place, index), document, above) for index, item in enumerate(node.value)]
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node, deep=True)
    finally:
        loader.dispose()
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)


def _override(document: Document, environ: Mapping[str, str]) -> None:
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX):
            continue
        names = [part.lower() for part in variable[len(ENV_PREFIX) :].split("__")]
        if not isinstance(document.value, dict) or not all(names):
            document.problems.append(f"environment variable {variable}: expected {ENV_PREFIX}KEY__KEY")
            continue
        try:
            value = yaml.safe_load(environ[variable])
        except yaml.YAMLError:
            document.problems.append(f"environment variable {variable}: its value is not valid YAML")
            continue
        at, place = document.value, []
        for name in names[:-1]:
            key = _spelled(name, at)
            place.append(key)
            if not isinstance(at.get(key), dict):
                at[key] = {}
            at = at[key]
        last = _spelled(names[-1], at)
        at[last] = value
        document.from_env[(*place, last)] = f"environment variable {variable}"


def _spelled(name: str, among: Mapping[Any, Any]) -> str:
    """The key that an environment variable means: as it stands in the file, where ``-`` may be written as ``_``."""
    return next((key for key in among if isinstance(key, str) and key.lower().replace("-", "_") == name), name)


def _explain(error: ValidationError, model: type[BaseModel], document: Document) -> list[str]:
    lines = []
    for item in error.errors(include_url=False, include_context=True):
        place = tuple(item["loc"])
        lines.append(f"{document.at(place)}: {_message(place, dict(item), model)}")
    return lines


def explain(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """Each mistake of a document that came from no file: its dotted path, and the message."""
    found = [(tuple(item["loc"]), dict(item)) for item in error.errors(include_url=False, include_context=True)]
    return [(_dotted(place), _message(place, item, model)) for place, item in found]


def _message(place: Place, item: dict[str, Any], model: type[BaseModel]) -> str:
    name = _dotted(place)
    if item["type"] == "extra_forbidden":
        return _unknown(place, model)
    if item["type"] == "missing":
        return f"{name} is missing"
    text = str(item["msg"]).removeprefix("Value error, ")
    text = text[:1].lower() + text[1:] if text.startswith(("Input", "String")) else text
    if text.startswith(("input should be ", "string should ")):
        text = text.replace("input should be", "expected").replace("string should", "the text should")
        text += f", got {_shown(place, item.get('input'))}"
    return f"{name}: {text}" if name else text


def _unknown(place: Place, model: type[BaseModel]) -> str:
    key = str(place[-1])
    if any(part in _SECRETS for part in key.lower().split("_")):
        return f"{_dotted(place)}: secrets do not stand in this file; give password_file or password_env"
    known = sorted(_keys_at(model, place[:-1]))
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"unknown key {_dotted(place)}; {hint}"


def _keys_at(model: type[BaseModel], place: Place) -> set[str]:
    """The keys that ``model`` knows at a place of the document."""
    at: Any = model
    for part in place:
        if isinstance(at, type) and issubclass(at, BaseModel):
            wanted = at.model_fields.get(str(part))
            at = _inner(wanted.annotation) if wanted else None
        else:
            at = _inner(typing.get_args(at)[-1]) if typing.get_origin(at) is dict else None
    return set(at.model_fields) if isinstance(at, type) and issubclass(at, BaseModel) else set()


def _inner(annotation: Any) -> Any:
    """A model, a mapping, or the one of these that an optional or annotated type holds."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _inner(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return next((_inner(a) for a in typing.get_args(annotation) if a is not type(None)), None)
    if origin is tuple:
        return dict[int, typing.get_args(annotation)[0]]  # type: ignore[misc]
    return annotation


def _dotted(place: Place) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _shown(place: Place, value: Any) -> str:
    if any(part in _SECRETS for name in place for part in str(name).lower().split("_")):
        return "something else (not shown)"
    text = repr(value)
    return text if len(text) <= 60 and "@" not in text else f"{_kind(value)}"


def _kind(value: Any) -> str:
    names = {dict: "keys and values", list: "a list", str: "a text", type(None): "nothing", bool: "true or false"}
    return names.get(type(value), "a number")
