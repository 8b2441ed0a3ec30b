"""SFTContext, which the functions of an SFT run share."""

import dataclasses
from typing import Any

from tljax.data.batch import Batches
from tljax.data.tokenizer import Tokenizer
from tljax.evaluate import in_training
from tljax.model import lora
from tljax.storage.run_folder import RunFolder
from tljax.training import model_source
from tljax.training.exported_change import export_dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTContext:
    """The parts of a run that stay the same from the first update to the last."""

    config: Any
    model: model_source.ModelSource
    tokenizer: Tokenizer
    batches: Batches
    held_out: Batches | None  # None if no trajectory is held out
    content: str  # a hash of the training rows, which every checkpoint stores
    sets: in_training.EvalSets
    folder: RunFolder

    @property
    def adapter(self) -> lora.LoraOptions | None:
        """The options of the adapter that is trained; None if all weights are trained."""
        return lora.LoraOptions.from_config(self.config.lora)

    @property
    def export_dtype(self) -> str:
        """The dtype of the model's export."""
        return export_dtype(self.model, self.config.export.dtype)

    @property
    def total(self) -> int:
        """The number of updates: optim.max_steps if it is set, else that of all epochs."""
        return self.config.optim.max_steps or self.batches.steps
