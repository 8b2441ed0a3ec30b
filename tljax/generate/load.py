"""A trained model with its tokenizer, before its weights are read."""

from tljax.data.tokens import Tokenizer, load_tokenizer
from tljax.toolbox.embedded import model_path
from tljax.training import model_source


def open_model_and_tokenizer(path: str, tokenizer: str) -> tuple[model_source.Model, Tokenizer]:
    """The model at `path` (a folder, a hub id or "base") and the tokenizer in a folder, "" for the model's own.

    Raises InputError as `open_model` and `load_tokenizer` do, and where the two do not fit.
    """
    model = model_source.open_model(model_path(path), "")
    found = load_tokenizer(tokenizer or str(model.folder))
    return model_source.fit_to_vocabulary(model, "", found.vocab_size, found.folder), found
