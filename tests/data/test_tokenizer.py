"""What text becomes is what tokenizer.json says, whatever class its folder names; what cannot be asked is a line."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders
from transformers import AutoTokenizer

from megatron_oreal.data.tokenizer import Template, check_against_file, load_tokenizer, stop_token

TEXT = "Tom has  12 apples,\nand 7.5 more . 'tis 1234 + 99é <|im_end|>\n"
PAIRS = {  # of letters
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"\p{L}{2}"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ],
}


@pytest.fixture
def folder(tiny_model, tmp_path):
    """folder(model kind, class in tokenizer_config.json, *changes of tokenizer.json) -> a model's folder."""

    def make(kind: str = "qwen2", named: str | None = None, template: str | None = None, vocab_size: int = 520, **changes) -> str:
        copy = Path(shutil.copytree(tiny_model(kind, tokenizer=True, vocab_size=vocab_size), tmp_path / "model"))
        own, settings = (json.loads((copy / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json"))
        (copy / "tokenizer.json").write_text(json.dumps(own | changes))
        (copy / "tokenizer_config.json").write_text(json.dumps(settings | ({"tokenizer_class": named} if named else {})))
        if template:
            (copy / "chat_template.jinja").write_text(template)
        return str(copy)

    return make


@pytest.mark.parametrize(
    ("kind", "named", "changes"),
    [
        ("llama", "LlamaTokenizerFast", {}),  # of R1-Distill-Llama
        ("qwen2", "LlamaTokenizer", {"pre_tokenizer": PAIRS}),  # of R1-Distill-Qwen
        ("qwen2", "Qwen2Tokenizer", {"pre_tokenizer": PAIRS, "normalizer": None}),
    ],
)
def test_a_class_that_knows_better_is_not_asked(folder, kind, named, changes):
    path = folder(kind, named, **changes)
    own, asked = Tokenizer.from_file(f"{path}/tokenizer.json"), load_tokenizer(path)
    ids = own.encode(TEXT, add_special_tokens=False).ids
    assert asked.encode(TEXT, add_special_tokens=False) == ids
    assert asked.decode(ids) == own.decode(ids, skip_special_tokens=False) == TEXT
    assert asked.chat_template and asked.eos_token == "<|im_end|>" and "<|im_start|>" in asked.all_special_tokens
    Template(asked, "").check([TEXT])
    as_transformers_has_it = AutoTokenizer.from_pretrained(path)
    assert as_transformers_has_it.encode(TEXT, add_special_tokens=False) != ids, "the test has nothing to look at"
    with pytest.raises(ValueError, match=r"^model.path: \w+ makes other tokens of .Tom has .* \(\d+\) than .*tokenizer.json says \(\d+\)$"):
        check_against_file(as_transformers_has_it, [TEXT])


def test_what_is_decoded_otherwise_is_refused_as_well(folder):
    loaded = load_tokenizer(folder())
    loaded.backend_tokenizer.decoder = decoders.ByteFallback()
    with pytest.raises(ValueError, match=r"decodes .* where .*tokenizer.json says"):
        check_against_file(loaded, [TEXT])


def test_tokens_that_tokenizer_config_adds_are_known(folder):
    path = folder()
    settings = json.loads(Path(path, "tokenizer_config.json").read_text())
    settings["extra_special_tokens"].append("<think>")
    Path(path, "tokenizer_config.json").write_text(json.dumps(settings))
    template = Template(load_tokenizer(path), "")
    template.check(["one <think> two"])
    assert len(template.encode("<think>")) == 1


def test_a_token_beyond_the_models_rows_is_a_line(folder):
    path = folder(vocab_size=400)
    assert len(load_tokenizer(path)) > 400
    with pytest.raises(ValueError, match=r"^model.path: the tokenizer of .* has a token \d+ \('.*'\), the model has 400 rows$"):
        Template(load_tokenizer(path), "").tokens("".join(load_tokenizer(path).get_vocab()))
    with pytest.raises(ValueError, match="the model has 400 rows"):
        stop_token(load_tokenizer(path), next(word for word, i in load_tokenizer(path).get_vocab().items() if i >= 400))


@pytest.mark.parametrize(
    ("template", "system", "said"),
    [
        ("{{ messages[0]['content'] }", "", "fails: TemplateSyntaxError: unexpected '}'"),
        ("{{ messages[0].content + 1 }}", "", "fails: TypeError"),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ messages[0].content }}",)
        + ("Think.", "takes no system message: it fails: TemplateError: System role not supported; set the system prompt to ''"),
        ("{{ messages[-1].content }}", "Think.", "leaves the system message out; set the system prompt to ''"),
        ("{{ messages[0].role }}", "", "leaves the question out"),
    ],
)
def test_a_chat_template_that_cannot_ask_is_a_line(folder, template, system, said):
    tokenizer = load_tokenizer(folder(template=template))
    with pytest.raises(ValueError) as caught:
        Template(tokenizer, system)
    assert said in str(caught.value) and str(caught.value).startswith("model.path: the chat template of ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "{}", '{"model": {"type": "BPE"}}'])
def test_a_damaged_file_is_a_line(folder, text):
    path = folder()
    Path(path, "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match="^model.path: no tokenizer in .*: .*") as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_vocabulary_is_a_line(folder):
    """transformers makes a tokenizer of it, to which all text is nothing."""
    path = folder()
    Path(path, "tokenizer.json").unlink()
    assert AutoTokenizer.from_pretrained(path).encode("text", add_special_tokens=False) == []
    with pytest.raises(ValueError, match="^model.path: the tokenizer in .* makes '' of 'What is 1 . 1.'; there is no tokenizer.json$"):
        load_tokenizer(path)
