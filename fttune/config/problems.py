"""Turn pydantic's errors into problems as a user reads them: dotted field, rule, value, nearest name.

A location of pydantic's holds more than the path in the file (the tag of a union, the type of a scalar), so each is
walked along the model's annotations.
"""

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails

from fttune.config.fields import members
from fttune.config.known import did_you_mean, one_of, shown
from fttune.config.sections import broken
from fttune.errors import Problem

_RULES = {
    "greater_than": "must be > {gt}",
    "greater_than_equal": "must be >= {ge}",
    "less_than": "must be < {lt}",
    "less_than_equal": "must be <= {le}",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_unicode": "must be text",
    "string_pattern_mismatch": "must match {pattern}",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
    "dict_type": "must be a mapping of fields",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
    "invalid_key": "keys must be text",
}


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Return the errors of validating `model`, each field once, in the file's words."""
    problems: dict[str, Problem] = {}
    for item in error.errors(include_url=False):
        if item["type"] == "default_factory_not_called":  # only says that another field of the section is broken
            continue
        field, annotation = _walk(item["loc"], model)
        if item["type"].startswith("union_tag"):
            field = f"{field}.type"
        # A union of scalar types reports one error per type; the first says enough.
        problems.setdefault(field, Problem(field, _message(item, annotation, model)))
    return list(problems.values())


def raise_if_any(problems: Iterable[Problem], model: type[BaseModel]) -> None:
    """Raise pydantic's error with all of some problems between fields, for use in a validator of `model`."""
    errors = [InitErrorDetails(type=broken(p.message), loc=(p.field,), input=None) for p in problems]
    if errors:
        raise ValidationError.from_exception_data(model.__name__, errors)


def _message(item: Any, annotation: Any, model: type[BaseModel]) -> str:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "rule":
        return str(context["message"])
    if kind == "missing":
        return "required field is missing"
    if kind == "extra_forbidden":
        _, section = _walk(item["loc"][:-1], model)
        return f"unknown key{did_you_mean(str(item['loc'][-1]), _field_names(section))}"
    if kind == "literal_error":
        return one_of(value, get_args(annotation))
    if kind == "union_tag_not_found":
        return f"required field is missing, one of {', '.join(_tagged(annotation))}"
    if kind == "union_tag_invalid":
        return one_of(value["type"] if isinstance(value, Mapping) else value, _tagged(annotation))
    if _is_scalar(annotation):
        return f"must be text, a finite number, true or false, got {shown(value)}"
    limits = {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in context.items()}
    rule = _RULES[kind].format(**limits) if kind in _RULES else item["msg"]
    return f"{rule}, got {shown(value)}"


def _walk(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, Any]:
    """Return the path in the file and the annotation at a location."""
    path, at = "", _bare(model)
    for part in loc:
        if _is_section(at):
            path = f"{path}.{part}" if path else str(part)
            at = _bare(at.model_fields[str(part)].annotation) if part in at.model_fields else None
        elif get_origin(at) is dict:
            path, at = f"{path}.{part}", _bare(get_args(at)[1])
        elif get_origin(at) is tuple:
            path, at = f"{path}[{part}]", _bare(get_args(at)[0])
        else:  # the tag of a union of sections, or the type of a scalar: pydantic's own, not in the file
            at = _tagged(at).get(str(part), at)
    return path, at


def _bare(annotation: Any) -> Any:
    """Return an annotation without its metadata and without `| None`; of words or one section, the section."""
    others = [member for member in members(annotation) if member is not type(None)]
    sections = [member for member in others if _is_section(member)]
    words = [member for member in others if get_origin(member) is Literal]
    if len(sections) == 1 and len(sections) + len(words) == len(others):
        return sections[0]
    return reduce(or_, others)


def _tagged(annotation: Any) -> dict[str, type[BaseModel]]:
    """Return the sections of a union by their tags; empty for any other annotation."""
    sections = [member for member in get_args(annotation) if _is_section(member)]
    return {get_args(section.model_fields["type"].annotation)[0]: section for section in sections}


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_scalar(annotation: Any) -> bool:
    return len(get_args(annotation)) > 1 and set(get_args(annotation)) <= {str, int, float, bool}


def _field_names(section: Any) -> list[str]:
    fields = getattr(section, "model_fields", {})
    return [field.alias or name for name, field in fields.items() if not (name == "name" and field.exclude)]
