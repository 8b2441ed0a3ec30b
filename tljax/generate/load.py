"""Opens a trained model with its tokenizer, without reading the weights."""

from tljax.data.tokenizer import Tokenizer, load_tokenizer
from tljax.distributed.log import log
from tljax.toolbox.embedded import resolve_model_path
from tljax.training import model_source


def open_model_and_tokenizer(path: str, tokenizer: str) -> tuple[model_source.ModelSource, Tokenizer]:
    """Returns the model at `path` (a folder, a hub id or "base") and its tokenizer.

    tokenizer: the folder of the tokenizer, "" for the model's folder. Raises InputError as `open_model` and
    `load_tokenizer` do, and for a tokenizer that does not fit the model.
    """
    model = model_source.open_model(resolve_model_path(path), "")
    loaded = load_tokenizer(tokenizer or str(model.folder), model.config_folder).fit_to_rows(model.config.vocab_size)
    if loaded.lacking:
        log(loaded.format_lacking())
    return model_source.fit_to_vocabulary(model, "", loaded.vocab_size, loaded.folder), loaded
