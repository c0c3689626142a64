import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fttune.tracking.redaction import HIDDEN, is_secret, redacted, redacted_text, redacted_values
from fttune.training.events import Entry, EpochEnded, Notice, RunClosed, RunOpened

HEX = string.hexdigits[:16]


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db.password",
        "hub_token",
        "hub.token",
        "apiKey",
        "API_KEY",
        "aws.secret-access-key",
        "authorization",
        "credentials",
        "clientSecret",
        "X-Auth",
        "private_key",
        "MLFLOW_TRACKING_PASSWORD",
    ],
)
def test_the_names_of_secrets_are_known(name: str) -> None:
    assert is_secret(name)
    assert redacted_values({name: "hunter2"}) == {name: HIDDEN}


@pytest.mark.parametrize(
    "name",
    ["optimizer.lr", "num_tokens", "tokenizer", "key", "data.path", "author", "fttune.study_id", "secretary", "monkey"],
)
def test_other_names_are_not(name: str) -> None:
    assert not is_secret(name)
    assert redacted_values({name: 0.5}) == {name: 0.5}


@pytest.mark.parametrize(
    "token",
    [
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a1" * 15,
        "glpat-" + "x9" * 10,
        "AKIA" + "A1B2C3D4" * 2,
        "AIza" + "s" * 35,
        "hf_" + "Ab1" * 11,
        "sk-proj-" + "a1" * 12,
        "xoxb-123456-abcdef",
        "dapi" + "0123abcd" * 4,
        "pypi-" + "Ag" * 20,
        "eyJhbGciOi.eyJzdWIiOi.SflKxwRJSM",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_tokens_are_known_by_their_shapes_wherever_they_stand(token: str) -> None:
    assert redacted_text(f"cannot read x: {token}, said the server") == f"cannot read x: {HIDDEN}, said the server"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg2://anna:p%40ss@db:5432/x failed", "postgresql+psycopg2://anna:***@db:5432/x failed"),
        ("https://:hunter2@host/x", "https://:***@host/x"),
        ("Authorization: Bearer abcdefgh.1234", "Authorization: Bearer ***"),
        ("GET /x?token=abc&step=3", "GET /x?token=***&step=3"),
        ("password: hunter2, step: 3", "password: ***, step: 3"),
        ("sqlite:////root/mlruns/mlflow.db", "sqlite:////root/mlruns/mlflow.db"),
        ("http://127.0.0.1:5000/a:b@c", "http://127.0.0.1:5000/a:b@c"),
        ("a\x1b[31mred\x07 \u202egnp.exe\r\n\tx", "a\\x1b[31mred\\x07 \\u202egnp.exe\\r\n\tx"),
        ("byte \udcff", "byte \\udcff"),
        ("Größe 5 µm, 猫", "Größe 5 µm, 猫"),
    ],
)
def test_text_shows_what_is_no_secret(text: str, shown: str) -> None:
    assert redacted_text(text) == shown


@given(
    st.text(string.ascii_letters + string.digits + "._~!$&'()*+,;=%-", min_size=1),
    st.text(string.ascii_lowercase, min_size=1),
)
def test_no_password_of_a_url_is_left(password: str, host: str) -> None:
    shown = redacted_text(f"MLflow at https://anna:{password}@{host}.org/x: no answer")
    assert shown == f"MLflow at https://anna:***@{host}.org/x: no answer"


@given(st.text())
def test_redacting_twice_is_redacting_once_and_leaves_no_control_character(text: str) -> None:
    once = redacted_text(text)
    assert redacted_text(once) == once
    assert not {c for c in once if c < " " or c == "\x7f"} - {"\n", "\t"}
    once.encode()  # what is left is text


@given(st.text(HEX, min_size=32, max_size=64))
def test_digests_and_ids_are_left_alone(digest: str) -> None:
    assert redacted_text(digest) == digest


def test_what_an_entry_says_is_redacted_and_what_names_it_is_not() -> None:
    opened = RunOpened("t\x07", "pets", "s", {"hub.token": "a", "names": ("x\x1b", "y")}, {"url": "http://a:b@c"}, True)
    found = redacted(Entry("s/1", opened))
    params, tags = {"hub.token": HIDDEN, "names": ["x\\x1b", "y"]}, {"url": "http://a:***@c"}
    assert found == Entry("s/1", RunOpened("t\x07", "pets", "s", params, tags, True))
    assert redacted(Entry("s", Notice("password=x"))) == Entry("s", Notice(f"password={HIDDEN}"))
    closed = redacted(Entry("s", RunClosed("failed", {"fttune.cause": "sk-" + "a" * 30}))).event
    assert closed == RunClosed("failed", {"fttune.cause": HIDDEN})
    ended = Entry("s", EpochEnded(1, {"val/loss": 0.1}))
    assert redacted(ended) is ended
