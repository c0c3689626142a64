"""The fields of a configuration by dotted path, read off its schema: which there are, and what one says.

Optional sections, unions and mappings count, whether a file fills them in or not. A tree is the nested mapping of a
file, whole or in part, valid or not.
"""

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

Tree = Mapping[str, Any]


def field_names(model: type[BaseModel]) -> list[str]:
    """Return the dotted path of every field that holds a value; of an optional section, the section and its fields."""
    return list(_names(model))


def is_field(model: type[BaseModel], dotted: str) -> bool:
    """Return whether a dotted path is a field that holds a value; a mapping's keys are free."""
    if dotted in field_names(model):
        return True
    parent, _, key = dotted.rpartition(".")
    if not key or parent not in field_names(model):
        return False
    return any(get_origin(member) is dict for member in members(_annotation(model, parent)))


def value_at(model: type[BaseModel], tree: Tree, dotted: str) -> Any:
    """Return what a tree says at a field, defaults filled in; None where it says nothing."""
    at: Any = tree
    annotation: Any = model
    for key in dotted.split("."):
        section = _section(annotation)
        if not isinstance(at, Mapping):
            return None
        if section is None:  # a mapping with free keys
            at, annotation = at.get(key), None
        else:
            at = _value(section, at, key)
            annotation = section.model_fields[key].annotation if key in section.model_fields else None
    return at


def put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a field, making the sections above it."""
    *sections, leaf = dotted.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[leaf] = value


def stands_in(tree: Tree, dotted: str) -> bool:
    """Return whether a tree itself says something at a field, if only None."""
    at: Any = tree
    for key in dotted.split("."):
        if not isinstance(at, Mapping) or key not in at:
            return False
        at = at[key]
    return True


def remove(tree: dict[str, Any], dotted: str) -> None:
    """Take a field out, where it stands."""
    *sections, leaf = dotted.split(".")
    at: Any = tree
    for section in sections:
        at = at.get(section) if isinstance(at, dict) else None
    if isinstance(at, dict):
        at.pop(leaf, None)


def lies_in(name: str, field: str) -> bool:
    """Return whether a dotted path is a field, or lies below it."""
    return name == field or name.startswith(f"{field}.")


def touch(a: str, b: str) -> bool:
    """Return whether two dotted paths are the same field, or one lies in the other."""
    return lies_in(a, b) or lies_in(b, a)


def members(annotation: Any) -> list[Any]:
    """Return the parts of a union, or the annotation itself, without metadata; None counts."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [annotation]


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if field.exclude:  # the name of the file
            continue
        section = _section(field.annotation)
        if [section] != members(field.annotation):
            yield f"{prefix}{name}"
        if section is not None:
            yield from _names(section, f"{prefix}{name}.")


def _value(section: type[BaseModel], tree: Tree, key: str) -> Any:
    """Return the value of one field of a section; a default may be made from the fields before it."""
    if key in tree or key not in section.model_fields:
        return tree.get(key)
    before: dict[str, Any] = {}
    for name in section.model_fields:
        if name == key:
            break
        before[name] = tree[name] if name in tree else _default(section, name, before)
    return _default(section, key, before)


def _default(section: type[BaseModel], key: str, before: dict[str, Any]) -> Any:
    field = section.model_fields[key]
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True, validated_data=before)
    return value.model_dump() if isinstance(value, BaseModel) else value


def _annotation(model: type[BaseModel], dotted: str) -> Any:
    annotation: Any = model
    for key in dotted.split("."):
        section = _section(annotation)
        if section is None or key not in section.model_fields:
            return None
        annotation = section.model_fields[key].annotation
    return annotation


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that an annotation is or may be."""
    return next((m for m in members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)), None)
