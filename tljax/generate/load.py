"""Opens a trained model with its tokenizer, without reading the weights."""

from tljax.data.tokenizer import Tokenizer, load_tokenizer
from tljax.distributed.log import log
from tljax.toolbox.embedded import resolve_model_path
from tljax.training import model_source
from tljax.training.tokenizer_source import tokenizer_folder


def open_model_and_tokenizer(path: str, tokenizer: str) -> tuple[model_source.ModelSource, Tokenizer]:
    """Returns the model at `path` (a folder, a hub id or "base") and its tokenizer.

    tokenizer: the model whose tokenizer is used, "" for `path` itself. Raises InputError as `open_model`,
    `tokenizer_folder` and `load_tokenizer` do, and for a tokenizer that does not fit the model.
    """
    model = model_source.open_model(resolve_model_path(path), "")
    folder = tokenizer_folder(resolve_model_path(tokenizer)) if tokenizer else str(model.folder)
    loaded = load_tokenizer(folder, model.config_folder).fit_to_rows(model.config.vocab_size)
    if loaded.lacking:
        log(loaded.format_lacking())
    return model_source.fit_to_vocabulary(model, "", loaded.vocab_size, loaded.folder), loaded
