"""Chat templates: the prompts that transformers makes of them, and none that reaches out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmbench.reference_engine.errors import CheckpointError, RequestError
from llmbench.reference_engine.models.checkpoint_layout import BOS, EOS, train_tokenizer
from llmbench.reference_engine.models.synthetic_text import lines
from llmbench.reference_engine.tokenizer import Tokenizer

CONVERSATION = [
    {"role": "system", "content": "Be  brief."},
    {"role": "user", "content": "One\ntwo"},
    {"role": "assistant", "content": "<b>été</b>"},
    {"role": "user", "content": "More?"},
]
TEMPLATES: dict[str, Any] = {
    "a loop": "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}{% endfor %}",
    "whitespace": "{% for m in messages %}\n  {% if loop.first %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n",
    "tools are none": "{% if tools is not none %}tools{% else %}{{ messages[1].content }}{% endif %}",
    "documents are none": "{% if documents is not none %}documents{% else %}{{ messages[1].content }}{% endif %}",
    "json": "{{ messages | tojson }}",
    "indented json": "{{ messages | tojson(indent=2) }}",
    "sorted json": "{{ messages[0] | tojson(sort_keys=true) }}",
    "what is trained on": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% set x = 1 %}{% generation %}{% set x = 2 %}"
        "{{ m.content }}{{ x }}{% endgeneration %}{{ x }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "today": "{{ strftime_now('%Y %B') }}",
    "a pad token": "{{ pad_token }}{{ messages[1].content }}{{ cls_token is defined }}",
    "a break": "{% for m in messages %}{% if loop.index == 3 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "a namespace": "{% set s = namespace(n=0) %}{% for m in messages %}{% set s.n = s.n + 1 %}{% endfor %}{{ s.n }}",
    "several": [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "{{ messages[1].content }}"},
    ],
}


def write(folder: Path, template: object) -> Tokenizer:
    train_tokenizer(lines(600, 300, seed=1), 700).save(str(folder / "tokenizer.json"))
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer(folder)


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    ours = write(tmp_path, TEMPLATES[name]).encode_chat(CONVERSATION)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours == theirs.apply_chat_template(CONVERSATION, add_generation_prompt=True, return_dict=False)
    assert ours


def test_template_reads_what_the_request_says_besides(tmp_path: Path) -> None:
    template = "{% if thinks is defined and not thinks %}quick {% endif %}{{ messages[0].content }}"
    tokenizer = write(tmp_path, template + "{% if add_generation_prompt %} >{% endif %}")

    def told(variables: dict[str, Any]) -> str:
        return tokenizer.decode(tokenizer.encode_chat([{"role": "user", "content": "Hello"}], variables))

    assert told({}) == "Hello >"
    assert told({"thinks": False}) == "quick Hello >"
    assert told({"messages": [], "add_generation_prompt": False}) == "Hello >"


def test_file_of_its_own_goes_before_the_field(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("of the file")
    tokenizer = write(tmp_path, "of the field")
    assert tokenizer.decode(tokenizer.encode_chat(CONVERSATION)) == "of the file"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[5].content }}", "refuses these messages"),
        ("{{ ''.__class__.__mro__ }}", "refuses these messages"),
        ("{{ messages.append(1) }}", "refuses these messages"),
        ("{{ strftime_now.__globals__['datetime'] }}", "refuses these messages"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "refuses these messages"),
    ],
)
def test_template_that_refuses_or_reaches_out_fails_the_request_alone(tmp_path: Path, template: str, says: str) -> None:
    tokenizer = write(tmp_path, template)
    with pytest.raises(RequestError, match=says):
        tokenizer.encode_chat(CONVERSATION)


@pytest.mark.parametrize("template", [None, [{"name": "tool_use", "template": "tools"}]])
def test_model_without_a_template_says_so(tmp_path: Path, template: object) -> None:
    tokenizer = write(tmp_path, template)
    assert not tokenizer.has_chat_template
    with pytest.raises(RequestError, match="has no chat template; use /v1/completions"):
        tokenizer.encode_chat(CONVERSATION)


def test_template_that_is_no_template_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="chat_template"):
        write(tmp_path, "{% for %}")
