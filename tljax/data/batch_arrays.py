"""The classes of tokens, and the names and dtypes of the arrays of rows and batches. Imports no jax."""

import numpy as np

# The class of a position says what the position predicts. Only the classes of reply tokens are above 0.
# NO_TARGET: the position predicts nothing. NAME_TOKEN: the first key token of a reply, where the tool's name begins.
PROMPT_TOKEN, NO_TARGET, OTHER_TOKEN, KEY_TOKEN, NAME_TOKEN = -1, 0, 1, 2, 3

ROW_ARRAYS = {"tokens": np.int32, "targets": np.int32, "loss_weights": np.float32, "token_classes": np.int8}
BATCH_ARRAYS = ROW_ARRAYS | {"positions": np.int32, "segments": np.int32}
