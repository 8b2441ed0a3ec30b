"""Tokenizers of the other family: byte-level BPE, as in Qwen and Llama 3."""

import json
from pathlib import Path

import pytest
from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from tljax.data.dialect import open_dialect
from tljax.data.tokenizer import Tokenizer, load_tokenizer

# Llama 3's and Qwen's own pattern.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    'System: Function:\ndef getPaperDetails(paper: string):\n    """\n    Details of a paper.\n    """',
    "Function:\ndef getPapersByKeywords(keywords: string, limit: integer = None):",
    "Function:\ndef finish(answer: string):\n\nFunction:\ndef get_weather(city: string, day: integer = None):",
    'User: Wie ist das Wetter in Köln? 東京の天気は?\nAssistant: get_weather(city="Köln")\nOutput: 18 °C, sunny',
    'Assistant: getPapersByKeywords(keywords="deep learning")\nOutput: []\nAssistant: finish(answer="none")',
]


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory) -> Path:
    """A folder as Qwen ships it, with a post-processor that trims blanks off the ranges (GPT-2's default)."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=300,  # so few that every name is several tokens
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_end|>", "<|begin|>"],
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    folder = tmp_path_factory.mktemp("byte_level")
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def byte_level(byte_level_folder) -> Tokenizer:
    return load_tokenizer(str(byte_level_folder))


@pytest.fixture(scope="session")
def llama2(shared) -> Tokenizer:
    return load_tokenizer(str(shared / "tokenizer" / "llama2"))


@pytest.fixture(params=["byte_level", "llama2"])
def tokenizer(request) -> Tokenizer:
    """Both families in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def golden_pkt(shared) -> list[dict]:
    """Samples of the released script, tokenized with the Llama 2 tokenizer and weighed by the released trainer."""
    return [row for name in ("clean", "slight") for row in json.loads((shared / f"golden/pkt_{name}.json").read_text())]


TEMPLATES = Path(__file__).with_name("chat_templates")
# The template -> its tokens that begin a text and end a reply.
ENDS = {
    "qwen": (None, "<|im_end|>"),
    "qwen3": (None, "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "mistral": ("<s>", "</s>"),
    "pythonic": (None, "<|im_end|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama2": ("<s>", "</s>"),
}
WITH_TOOLS = ("qwen", "qwen3", "llama3", "mistral", "pythonic")
SPECIAL = [
    *("<|endoftext|>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]"),
    *("[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
]


@pytest.fixture(scope="module")
def backend():
    """A byte-level tokenizer with the special tokens of all formats of chat templates."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    backend.train_from_iterator(['get_weather_now {"name": "get_weather", "arguments": {"city": "Bern"}}'] * 3, trainer)
    backend.add_tokens(["<tool_call>", "</tool_call>", "<think>", "</think>"])
    return backend


@pytest.fixture(scope="module")
def folder_of(backend, tmp_path_factory):
    """name -> a folder with the tokenizer and that template."""

    def make(name, source=None):
        folder = tmp_path_factory.mktemp(name)
        bos, eos = ENDS.get(name, (None, "<|im_end|>"))
        backend.save(str(folder / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "chat_template.jinja").write_text(source or (TEMPLATES / f"{name}.jinja").read_text())
        return folder

    return make


@pytest.fixture(scope="module", params=WITH_TOOLS)
def opened(request, folder_of):
    """(name, template, tokenizer, transformers' tokenizer) of each format."""
    transformers = pytest.importorskip("transformers")
    folder = folder_of(request.param)
    template, tokenizer = open_dialect("template", "", load_tokenizer(str(folder)), "data.chat_template")
    return request.param, template, tokenizer, transformers.AutoTokenizer.from_pretrained(folder)
