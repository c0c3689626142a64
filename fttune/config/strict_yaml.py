"""Read one YAML document as the YAML 1.2 core schema has it, and refuse what makes YAML dangerous.

PyYAML speaks YAML 1.1: `1e-5` is a string, `no` is false, `010` is eight, `1:30` is ninety, the last of two equal
keys wins, and nested aliases can fill the memory. Here the scalars are YAML 1.2's; duplicate keys, anchors,
aliases, tags, directives, several documents, deep nesting and large files are errors with line and column.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from fttune.errors import ConfigError, Problem

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_DIGITS = 30
MAX_KEYS = 1_000  # of one mapping: for each that is unknown, a near name is looked for

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_NULL = re.compile(r"~|null|Null|NULL|")
_OTHER_BREAKS = re.compile(r"[\x85\u2028\u2029]")
_PLAIN_WORDS = {
    "mapping values are not allowed here": "a second ': ' in one value; quote the text, or check the indentation",
    "but found another document": "one file holds one document; remove the second '---'",
    "found character '\\t' that cannot start any token": "a tab; YAML indents with spaces",
}


def read_yaml(path: Path) -> Any:
    """Return the document of a file as dicts, lists and scalars.

    Raises:
        ConfigError: the file is missing, unreadable, over 1 MB, not UTF-8, or breaks a rule of this module.
    """
    try:
        if path.exists() and not path.is_file():  # opening a FIFO would wait for ever
            raise _refusal(str(path), "must be a file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _refusal(str(path), f"cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(raw) > MAX_BYTES:
        raise _refusal(str(path), "is larger than 1 MB, which no experiment or study needs")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refusal(str(path), f"must be UTF-8, byte {error.start} is not") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Any:
    """Return the document in `text`; `name` stands for the file in messages. Raises ConfigError."""
    if found := _OTHER_BREAKS.search(text):  # YAML 1.1 ends a line here, YAML 1.2 does not
        raise _refusal(name, f"{_place(text, found.start())}the line separator {found[0]!a} is not allowed")
    try:
        return _StrictLoader(text).get_single_data()
    except yaml.reader.ReaderError as error:
        character = ascii(text[error.position])
        raise _refusal(name, f"{_place(text, error.position)}the character {character} is not allowed") from None
    except yaml.MarkedYAMLError as error:
        place = _place(text, error.problem_mark.index) if error.problem_mark else ""
        problem = str(error.problem or error.context)
        raise _refusal(name, place + _PLAIN_WORDS.get(problem, problem)) from None


def is_plain_text(text: str) -> bool:
    """Return whether text without quotes is read as text, and not as a number, true, false or nothing."""
    return not any(pattern.fullmatch(text) for pattern in (_INT, _FLOAT, _BOOL, _NULL))


def _place(text: str, index: int) -> str:
    return f"line {text.count(chr(10), 0, index) + 1}, column {index - text.rfind(chr(10), 0, index)}: "


def _refusal(name: str, message: str) -> ConfigError:
    return ConfigError(name, [Problem("", message)])


class _StrictLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own class attribute)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def scan_directive(self) -> Any:
        raise _marked(self.get_mark(), "directives such as %YAML are not allowed")

    def scan_flow_scalar_non_spaces(self, double: Any, start_mark: Any) -> Any:
        try:
            return super().scan_flow_scalar_non_spaces(double, start_mark)
        except ValueError:  # PyYAML's own chr() of \U00110000
            raise _marked(self.get_mark(), "there is no character beyond \\U0010ffff") from None

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _marked(event.start_mark, "anchors and aliases are not allowed; write the value out")
        if getattr(event, "tag", None):
            raise _marked(event.start_mark, f"tags are not allowed, got {event.tag!a}")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _marked(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.ScalarNode):
            node.value = _characters(node)
        return node

    def construct_mapping(self, node: Any, deep: bool = True) -> dict[Any, Any]:
        if len(node.value) > MAX_KEYS:
            raise _marked(node.start_mark, f"a mapping of more than {MAX_KEYS} keys")
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _marked(key.start_mark, f"keys must be plain text, got a {key.id}")
            if key.tag != "tag:yaml.org,2002:str":
                raise _marked(key.start_mark, f"keys must be text, got {key.value or 'nothing'}; quote it")
            if not key.value.isprintable():  # a no-break space looks like a space; a line feed would break messages
                raise _marked(key.start_mark, f"keys must be printable, got {key.value!a}")
            if key.value in seen:
                raise _marked(key.start_mark, f"the key {key.value!r} stands twice")
            seen.add(key.value)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}

    def construct_yaml_map(self, node: Any) -> Any:
        return self.construct_mapping(node)

    def construct_int(self, node: Any) -> int:
        if len(node.value.lstrip("+-")) > MAX_DIGITS:
            raise _marked(node.start_mark, f"a whole number with more than {MAX_DIGITS} digits")
        base = {"0o": 8, "0x": 16}.get(node.value[:2], 10)
        return int(node.value[2:] if base != 10 else node.value, base)

    def construct_float(self, node: Any) -> float:
        return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def construct_bool(self, node: Any) -> bool:
        return str(node.value).lower() == "true"


def _characters(node: yaml.ScalarNode) -> str:
    """Return a scalar's text with JSON's surrogate pairs joined; half a pair, and NUL, fit into no file or store."""
    try:
        text = str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise _marked(node.start_mark, "half of a surrogate pair is no character") from None
    if "\0" in text:
        raise _marked(node.start_mark, "the character '\\x00' is not allowed")
    return text


def _marked(mark: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _install(loader: type[_StrictLoader]) -> None:
    """Give the loader YAML 1.2's scalars; the order decides: null, bool, int, float, else text."""
    resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = loader.yaml_implicit_resolvers  # type: ignore[assignment]
    for tag, pattern in (("null", _NULL), ("bool", _BOOL), ("int", _INT), ("float", _FLOAT)):
        anchored = re.compile(f"(?:{pattern.pattern})$")
        resolvers.setdefault(None, []).append((f"tag:yaml.org,2002:{tag}", anchored))
    for tag, build in (
        ("map", loader.construct_yaml_map),
        ("int", loader.construct_int),
        ("float", loader.construct_float),
        ("bool", loader.construct_bool),
    ):
        loader.add_constructor(f"tag:yaml.org,2002:{tag}", build)


_install(_StrictLoader)
