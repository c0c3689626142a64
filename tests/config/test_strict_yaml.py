import json
import math
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fttune.config.strict_yaml import MAX_BYTES, MAX_DEPTH, parse_yaml, read_yaml
from fttune.errors import ConfigError, one_line


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "x.yaml")
    assert str(caught.value).startswith("x.yaml: ")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("x.yaml: ")


# The tables of the YAML 1.2.2 specification, chapter 10.3.2 (core schema), and what PyYAML reads otherwise.
CORE_SCHEMA = {
    "1e-5": 1e-5,
    "1E+3": 1000.0,
    "1.0e-3": 0.001,
    "-2E05": -200000.0,
    "12e03": 12000.0,
    "1.": 1.0,
    ".5": 0.5,
    "+.5": 0.5,
    "-0.0": -0.0,
    "010": 10,
    "0o14": 12,
    "0x3A": 58,
    "-19": -19,
    "+12": 12,
    "1:30": "1:30",
    "1_000": "1_000",
    "0b11": "0b11",
    "2001-12-14": "2001-12-14",
    "true": True,
    "True": True,
    "FALSE": False,
    "yes": "yes",
    "no": "no",
    "on": "on",
    "off": "off",
    "y": "y",
    "tRue": "tRue",
    "null": None,
    "Null": None,
    "~": None,
    "none": "none",
    "None": "None",
    ".inf": math.inf,
    "-.INF": -math.inf,
    "+.Inf": math.inf,
    "inf": "inf",
    "nan": "nan",
    ".": ".",
    "e5": "e5",
    "0xg": "0xg",
    "-0x10": "-0x10",
    "1.2.3": "1.2.3",
    "=": "=",
    "<<": "<<",
}


@pytest.mark.parametrize("text", CORE_SCHEMA)
def test_plain_scalars_are_those_of_the_yaml_1_2_core_schema(text):
    value = parse_yaml(f"a: {text}\n", "x.yaml")["a"]
    assert value == CORE_SCHEMA[text]
    assert type(value) is type(CORE_SCHEMA[text])


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_nan_is_a_number_that_is_none(text):
    assert math.isnan(parse_yaml(text, "x.yaml"))


@pytest.mark.parametrize("text", CORE_SCHEMA)
def test_quoted_scalars_are_text_whatever_they_look_like(text):
    assert parse_yaml(f"['{text}', \"{text}\"]", "x.yaml") == [text, text]


def test_an_empty_value_is_null_and_an_empty_document_too():
    assert parse_yaml("a:\nb: 1\n", "x.yaml") == {"a": None, "b": 1}
    assert parse_yaml("# only a comment\n", "x.yaml") is None


characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
keys = st.text(characters, max_size=80).filter(str.isprintable)  # YAML: at most 1024 characters as they are written
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**28), 10**28)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(characters),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=15,
)


@settings(deadline=None, max_examples=120)
@given(json_values, st.sampled_from([None, 1, 3]))
@example({"key": "\U0001f600 e\u0301 \u2028 \x85 \x7f \ufeff"}, None)
@example({"1e5": ["1e5", 1e5, "", " ", "a: b", "# c", "- d"]}, 2)
def test_every_json_document_is_read_as_json_reads_it(value, indent):
    document = json.dumps(value, indent=indent)
    ours = parse_yaml(document, "x.yaml")
    assert json.dumps(ours) == document if indent is None else ours == json.loads(document)


@settings(deadline=None, max_examples=100)
@given(json_values, st.randoms())
def test_a_document_cut_anywhere_is_a_value_or_a_config_error(value, random):
    document = json.dumps(value)
    readable_or_refused(document[: random.randrange(len(document) + 1)])


def readable_or_refused(text):
    try:
        value = parse_yaml(text, "x.yaml")
    except ConfigError as error:
        assert str(error).startswith("x.yaml: ")
        assert len(str(error).splitlines()) == 1
    else:
        assert is_plain(value)


def is_plain(value) -> bool:
    if type(value) is dict:
        return all(type(key) is str and key.isprintable() and is_plain(inner) for key, inner in value.items())
    if type(value) is list:
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


PIECES = [
    *"ab {}[],'\"\\#@`~\t\r\n\x85\u2028\0\ufeff\x1b",
    *("  ", ": ", "? ", "- ", "&x ", "*x", "! ", "!!int ", "|\n", ">2-\n", "---\n", "...\n", "%YAML 1.2\n", "<<: "),
    *("\\x", "\\u0", "\\ud83d", "\\U00110000", "1e5", "0x", "9" * 31, "%YAML " + "9" * 5000 + "\n"),
]
yaml_pieces = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@settings(deadline=None, max_examples=250)
@given(st.text() | yaml_pieces)
@example('"\\U00110000"')
@example('"\\ud800"')
@example("%YAML " + "9" * 5000 + ".1\n---\na")
def test_any_text_is_a_plain_value_or_a_config_error(text):
    readable_or_refused(text)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=60) | yaml_pieces.map(lambda text: text.encode("utf-16")))
def test_any_bytes_of_a_file_are_a_plain_value_or_a_config_error(tmp_path_factory, raw):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(raw)
    try:
        assert is_plain(read_yaml(file))
    except ConfigError as error:
        assert str(error).startswith(f"{file}: ")


REFUSED = {
    "a: 1\nb: 2\na: 3\n": "line 3, column 1: the key 'a' stands twice",
    "x: {a: 1, 'a': 2}": "line 1, column 11: the key 'a' stands twice",
    "a: &x 1\nb: *x\n": "line 1, column 4: anchors and aliases are not allowed; write the value out",
    "a: *x": "line 1, column 4: anchors and aliases are not allowed; write the value out",
    "&x {a: 1}": "line 1, column 1: anchors and aliases are not allowed; write the value out",
    "a: !!int '1'": "line 1, column 4: tags are not allowed, got 'tag:yaml.org,2002:int'",
    "a: !!python/object/apply:os.system [ls]": "line 1, column 4: tags are not allowed, got "
    "'tag:yaml.org,2002:python/object/apply:os.system'",
    "- !mine x": "line 1, column 3: tags are not allowed, got '!mine'",
    "- !<a%0Ab> x": "line 1, column 3: tags are not allowed, got 'a\\nb'",
    "- ! x": "line 1, column 3: tags are not allowed, got '!'",
    "a: 1\n---\nb: 1\n": "line 2, column 1: one file holds one document; remove the second '---'",
    "%YAML 1.1\n---\na: 1\n": "line 1, column 1: directives such as %YAML are not allowed",
    "%TAG ! tag:x,2000:\n---\na: 1\n": "line 1, column 1: directives such as %YAML are not allowed",
    "1: x": "line 1, column 1: keys must be text, got 1; quote it",
    "a: {true: x}": "line 1, column 5: keys must be text, got true; quote it",
    "? \n: x": "line 1, column 2: keys must be text, got nothing; quote it",
    "? [a]\n: x": "line 1, column 3: keys must be plain text, got a sequence",
    "? {a: 1}\n: x": "line 1, column 3: keys must be plain text, got a mapping",
    '"a\\nb": 1': "line 1, column 1: keys must be printable, got 'a\\nb'",
    "lr\u00a0: 1": "line 1, column 1: keys must be printable, got 'lr\\xa0'",
    "-" + "9" * 31: "line 1, column 1: a whole number with more than 30 digits",
    "a: 0x" + "f" * 40: "line 1, column 4: a whole number with more than 30 digits",
    '- "\\ud800"': "line 1, column 3: half of a surrogate pair is no character",
    '- "\\0"': "line 1, column 3: the character '\\x00' is not allowed",
    "a: 1\n\0": "line 2, column 1: the character '\\x00' is not allowed",
    "a: \x1b[31m": "line 1, column 4: the character '\\x1b' is not allowed",
    "a: 1 # note\u2028lr: 2": "line 1, column 12: the line separator '\\u2028' is not allowed",
    "a: x\x85": "line 1, column 5: the line separator '\\x85' is not allowed",
    "a: 1\n\tb: 2": "line 2, column 1: a tab; YAML indents with spaces",
    "a: b: c": "line 1, column 5: a second ': ' in one value; quote the text, or check the indentation",
    "a: 1\n  b: 2": "line 2, column 4: a second ': ' in one value; quote the text, or check the indentation",
    "a: [1, 2": "line 1, column 9: expected ',' or ']', but got '<stream end>'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_makes_yaml_dangerous_is_refused_with_line_and_column(text):
    assert refusal(text) == REFUSED[text]


def test_an_escape_beyond_unicode_is_refused():
    assert refusal('"\\U00110000"').endswith("there is no character beyond \\U0010ffff")


def test_merge_keys_are_keys_like_any_other():
    assert parse_yaml("a: {<<: {b: 1}}", "x.yaml") == {"a": {"<<": {"b": 1}}}


def test_an_alias_bomb_is_refused_at_its_first_anchor():
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert refusal(bomb).startswith("line 1, column 4: anchors")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}"), ("- ", "")])
def test_nesting_ends_at_a_fixed_depth(opening, closing):
    assert is_plain(parse_yaml(opening * (MAX_DEPTH - 1) + "x" + closing * (MAX_DEPTH - 1), "x.yaml"))
    assert refusal(opening * MAX_DEPTH + "x" + closing * MAX_DEPTH).endswith(f"nested deeper than {MAX_DEPTH} levels")


def test_ten_thousand_open_brackets_are_refused_without_recursion():
    assert "nested deeper" in refusal("[" * 10_000)


def test_whole_numbers_have_at_most_thirty_digits():
    assert parse_yaml("9" * 30, "x.yaml") == 10**30 - 1
    assert parse_yaml("-" + "9" * 30, "x.yaml") == 1 - 10**30


def read_refusal(path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert caught.value.file == one_line(str(path))
    return caught.value.problems[0].message


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert read_yaml(file) == {"a": 1, "b": "x"}


def test_a_file_of_one_megabyte_is_read_and_one_byte_more_is_not(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(b"a: 1\n" + b"#" * (MAX_BYTES - 5))
    assert read_yaml(file) == {"a": 1}
    file.write_bytes(b"a: 1\n" + b"#" * (MAX_BYTES - 4))
    assert read_refusal(file) == "is larger than 1 MB, which no experiment or study needs"


def test_a_file_that_is_not_utf_8_is_refused_with_the_place(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes("a: \xe9\n".encode("latin-1"))
    assert read_refusal(file) == "must be UTF-8, byte 3 is not"


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "x.yaml")
    assert read_refusal(tmp_path / "x.yaml") == "must be a file"


def test_a_folder_is_refused(tmp_path):
    assert read_refusal(tmp_path) == "must be a file"


def test_a_missing_file_is_refused(tmp_path):
    assert read_refusal(tmp_path / "x.yaml") == "cannot be read: No such file or directory"


def test_paths_that_no_file_can_have_are_refused(tmp_path):
    assert read_refusal(tmp_path / ("x" * 300)) == "cannot be read: File name too long"
    assert read_refusal(tmp_path / "a\0b") == "cannot be read: embedded null byte"


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    (tmp_path / "x.yaml").touch()
    assert read_refusal(tmp_path / "x.yaml") == "cannot be read: Permission denied"
