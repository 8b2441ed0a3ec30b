"""Tokenizers of the other family: byte-level BPE, as in Qwen and Llama 3."""

import json
from pathlib import Path

import pytest
from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

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
