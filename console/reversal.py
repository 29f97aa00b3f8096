"""The specification of a task in the other direction, filters and renaming turned round. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from canal.errors import Refused

if TYPE_CHECKING:
    from node.config.models import SelectionConfig, TaskSpec


def reversed_spec(old: TaskSpec, name: str) -> TaskSpec:
    """The task ``name`` that carries back exactly what ``old`` carries; its ``direct`` is empty.

    Raises `Refused` for what cannot be turned round: a hook, and key patterns that are not told by their beginning
    where keys are renamed.
    """
    from node.config.models import FilterConfig, MapConfig, TaskSpec

    if old.map.hook:
        raise Refused(f"task {old.task} changes keys by a hook, which cannot be turned round: create the task by hand")
    there = {source: target for source, target in old.map.databases.items() if source != target}
    renames = (old.map.remove_prefix, old.map.add_prefix)

    def turned(selection: SelectionConfig) -> SelectionConfig:
        databases = tuple(there.get(db, db) for db in selection.databases)
        keys = tuple(_pattern(old.task, word, *renames) for word in selection.keys)
        return selection.model_copy(update={"databases": databases, "keys": keys})

    made = old.model_copy(
        update={
            "task": name,
            "source": old.target,
            "target": old.source,
            "direct": (),
            "filter": FilterConfig(include=turned(old.filter.include), exclude=turned(old.filter.exclude)),
            "map": MapConfig(
                databases={target: source for source, target in there.items()},
                remove_prefix=old.map.add_prefix,
                add_prefix=old.map.remove_prefix,
            ),
        }
    )
    return TaskSpec.model_validate(made.model_dump())


def _pattern(task: str, word: str, remove: str, add: str) -> str:
    """A rule about names of the source as one about names of the target."""
    if not remove and not add:
        return word
    kind, colon, text = word.partition(":")
    if not colon or kind not in ("prefix", "glob", "regex"):
        kind, text = "glob", word
    if kind == "prefix" and remove.startswith(text):
        return f"prefix:{add}"  # all that is carried begins with it
    plain = not set(add + remove) & set("*?[]\\")
    if text.startswith(remove) and (kind == "prefix" or (kind == "glob" and plain)):
        return f"{kind}:{add}{text[len(remove) :]}"
    raise Refused(
        f"task {task} renames keys and chooses them by {word!r}, which cannot be turned round: create the task by hand"
    )
