"""Training of the small tokenizer that ships with tljax: `python -m tljax.toolbox.tokenizer [FOLDER]`.

The layout is that of Llama 2's tokenizer.json: BPE with byte fallback; ids 0, 1, 2 for <unk>, <s>, </s>, then the 256
bytes; U+2581 for a blank, and one of them before the text. Unlike Llama 2's, merges stay within a word, a digit or a
run of other characters. A name or a value then has the same tokens after a blank, a "_" or a quote, so a small model
can copy tokens from the prompt into a call. No merge crosses the end of "Assistant:" or of a reply, so the tokens of a
prompt are a prefix of the tokens of prompt and reply.
"""

import json
import os
import string
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tljax.core.errors import InputError
from tljax.data.formats.read import trajectory_from_record
from tljax.data.prompt import render_trajectory
from tljax.storage.atomic import atomic_file
from tljax.toolbox.invented import pretraining_rows
from tljax.toolbox.trajectories import BASE_FOLDER

VOCAB_SIZE = 1024
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
BLANK = "\u2581"
ALPHABET = [*string.ascii_letters, *string.digits, *string.punctuation, BLANK, "\n"]
# The colon before a reply and the newline after it are pieces of their own.
NEXT_ROLE = r"\n(?=(?:User|Assistant|Output):)"
SPLIT_PATTERN = rf"(?<=Assistant):|{NEXT_ROLE}|[A-Za-z]+|[0-9]|(?:(?!{NEXT_ROLE})[^A-Za-z0-9])+"
SEED, NUM_ROWS = 0, 8000
# Every fifth row is in the dialect `readme`, so that its punctuation gets tokens too.
README_EVERY = 5
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "legacy": True,
    "add_bos_token": True,
    "add_eos_token": False,
    "model_max_length": 8192,
    "clean_up_tokenization_spaces": False,
}


def training_texts() -> Iterator[str]:
    """Yields rendered tasks with invented tools, the text that the base is trained on, so that it sees every token."""
    for i, row in enumerate(pretraining_rows(seed=SEED, copied=0, n=NUM_ROWS), start=1):
        yield render_trajectory(trajectory_from_record(row, "toolbox", i), "mae" if i % README_EVERY else "readme").text


def build_tokenizer(model: models.BPE) -> Tokenizer:
    """Returns a tokenizer of this model, with the normalizer, the splits and the decoder."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Returns a tokenizer with `vocab_size` tokens, which depends on the texts alone."""
    trained = build_tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    # The bytes are special tokens here: this gives them their ids, and no merge contains them.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS + BYTE_TOKENS,
        initial_alphabet=ALPHABET,
        limit_alphabet=len(ALPHABET),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    learned = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    # In the final tokenizer the bytes are ordinary tokens.
    tokenizer = build_tokenizer(
        models.BPE(learned["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def write_tokenizer(folder: str) -> None:
    """Writes tokenizer.json and tokenizer_config.json. Raises InputError if the folder cannot be written."""
    try:
        os.makedirs(folder, exist_ok=True)
        tokenizer = train_tokenizer(training_texts(), VOCAB_SIZE)
        files = {
            "tokenizer.json": json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")),
            "tokenizer_config.json": json.dumps(TOKENIZER_CONFIG, indent=1),
        }
        for name, text in files.items():
            with atomic_file(Path(folder, name)) as file:
                file.write(text + "\n")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); name a folder with room") from error
    print(f"{folder}: {tokenizer.get_vocab_size()} words")


if __name__ == "__main__":
    write_tokenizer(sys.argv[1] if len(sys.argv) > 1 else BASE_FOLDER)
