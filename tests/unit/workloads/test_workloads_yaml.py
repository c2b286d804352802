"""YAML is read as plain data with positions; nothing in a file is evaluated, and nothing in it exhausts the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.yaml_document import MAX_DEPTH, MAX_NODES, parse_text


def refused(text: str) -> str:
    with pytest.raises(WorkloadError) as caught:
        parse_text(text, "w.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "w.yaml:1:9: not valid YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("a:\n\tb: 1", "w.yaml:2:1: not valid YAML: while scanning for the next token, found character '\\t'"),
        ("a: 1\n b: 2", "w.yaml:2:3: not valid YAML: "),
        ("a: *b", "w.yaml:1:4: not valid YAML: found undefined alias 'b'"),
        ("a: 'open", "w.yaml:1:9: not valid YAML: while scanning a quoted scalar, found unexpected end of stream"),
        ("a: 1\n---\nb: 2", "w.yaml:2:1: not valid YAML: expected a single document in the stream"),
        ("a: \x01", "w.yaml:1:4: not valid YAML: the character '\\x01' is not allowed"),
    ],
)
def test_a_syntax_error_has_its_line_and_column(text: str, message: str) -> None:
    assert refused(text).startswith(message)


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!!int", "!mine", "!!set"]
)
def test_tags_are_refused_and_never_run(tag: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    witness = tmp_path_factory.mktemp("tag") / "witness"
    said = refused(f"a: 1\nb: {tag} ['touch {witness}']")
    assert said.startswith(f"w.yaml:2:4: the tag '{tag}' is not supported; leave it out")
    assert not witness.exists()


BOMB = "\n".join(
    ["l0: &l0 [" + ", ".join(["lol"] * 9) + "]"]
    + [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 12)]
)
DEEP = "a: " + "[" * 5000 + "]" * 5000
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
from llmbench.workloads.loader import loads
from llmbench.workloads.errors import WorkloadError
try:
    loads(sys.stdin.read(), "w.yaml")
except WorkloadError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("bomb", "message"),
    [
        (BOMB, f"more than {MAX_NODES} values once aliases are filled in"),
        ("a: &a [*a]", "an alias may not contain itself"),
        ("a: &a {b: *a}", "an alias may not contain itself"),
        (DEEP, f"nested more than {MAX_DEPTH} levels deep"),
        ("a: " + "{b: " * 900 + "1" + "}" * 900, f"nested more than {MAX_DEPTH} levels deep"),
        ("a: " + "9" * 5000, "is too large"),
        ("a: 1e999", "is too large"),
    ],
    ids=["laughs", "list in itself", "mapping in itself", "deep list", "deep mapping", "long integer", "large float"],
)
def test_a_bomb_is_refused_within_bounds_of_memory_and_time(bomb: str, message: str) -> None:
    """Nine to the twelfth power values would need terabytes; the child has 2 GiB and 20 s of CPU."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        input=bomb,
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith("w.yaml")
    assert message in done.stdout


def test_an_alias_to_something_finished_is_filled_in() -> None:
    assert parse_text("a: &x {b: 1}\nc: *x", "w").data == {"a": {"b": 1}, "c": {"b": 1}}


def test_a_field_given_twice_is_refused_with_both_places() -> None:
    assert refused("a: 1\nb: 2\na: 3") == "w.yaml:3:1: the field 'a' is given twice; the first is at w.yaml:1:1"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("2024-01-01", "2024-01-01"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("0777", 777),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-7", -7),
        ("+7", 7),
        ("~", None),
        ("", None),
        ("null", None),
        ("'null'", "null"),
        ("TRUE", True),
        ('"true"', "true"),
        ("synthetic:llama-20m", "synthetic:llama-20m"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    data = parse_text(f"a: {text}", "w").data
    assert data == {"a": value}
    assert type(data["a"]) is type(value)


def test_every_value_knows_its_place() -> None:
    document = parse_text("a:\n  b: [x,\n      y]\nc: {d: 1}", "w.yaml")
    assert document.where(("a", "b", 1)) == "w.yaml:3:7"
    assert document.where(("c", "d")) == "w.yaml:4:8"
    assert document.where(("c", "d"), key=True) == "w.yaml:4:5"
    assert document.where(("c", "absent")) == "w.yaml:4:4"


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(alphabet="ab é:#-[]'\"\n", max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="abé:-", max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(data=PLAIN)
def test_what_an_independent_writer_wrote_is_read_back(data: Any) -> None:
    assert parse_text(yaml.safe_dump(data, allow_unicode=True), "w").data == data
