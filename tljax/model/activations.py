"""Bytes that a model's programs hold on a device besides weights, gradients and moments: arithmetic, about.

With weights, gradients and moments it is within an eighth of what the TPU compiler sets aside, from which
launch/plan.py has it exactly; rollouts of short prompts take up to a fifth more.
"""

import dataclasses

from tljax.model import cost
from tljax.model.llama import LlamaConfig


@dataclasses.dataclass(frozen=True)
class Activations:
    """Of a model whose heads, feed-forward and vocabulary are split over `tensor` devices, and its rows over `places`.

    width: bytes of a number. Tokens are those of one device.
    """

    c: LlamaConfig
    tensor: int
    places: int
    width: int

    def learning(self, rows: float, tokens: float, chunk: int, remat: str, table: int) -> float:
        """A forward and backward pass over `tokens` of each of `rows` rows.

        What remat keeps of every layer, the results of one layer with their gradients, the logits of `chunk` positions
        a row with theirs, and weights gathered whole. table: bytes of each number of the embedding, its gradient's
        among them.
        """
        c = self.c
        # Two layers' weights at a time; all of them where a backward pass finds them kept.
        layers = c.num_layers if remat == "none" else 2
        kept = rows * tokens * c.num_layers * self._kept(remat)
        return kept + self._passing(rows, tokens, chunk) + self._gathered(layers, table)

    def judging(self, rows: float, tokens: float, chunk: int) -> float:
        """A forward pass alone."""
        return self._passing(rows, tokens, chunk) + self._gathered(2, self.width)

    def replying(self, rows: float, prompt: int, reply: int, parts: int) -> float:
        """A rollout of `rows` prompts with their replies; parts: how many devices share the weights.

        The weights once more in a layout for decoding, the cache, and the results of one layer over the prompts with
        its weights gathered whole.
        """
        copy = cost.count_weights(self.c) * self.width / parts
        cache = rows * (prompt + reply) * self.cache()
        return copy + cache + rows * prompt * self._layer() + self._gathered(2, self.width)

    def cache(self) -> float:
        """Keys and values of one token."""
        c = self.c
        return 2 * c.num_layers * c.num_kv_heads * c.head_dim * self.width / self.tensor

    def _passing(self, rows: float, tokens: float, chunk: int) -> float:
        logits = rows * chunk * self.c.vocab_size * 4 / self.tensor
        return 2 * rows * tokens * (self._layer() + self._others()) + 3 * logits

    def _gathered(self, layers: int, table: int) -> float:
        c = self.c
        weights = (cost.count_weights(c) - 2 * c.vocab_size * c.d_model) / c.num_layers
        return layers * weights * self.width / self.tensor + c.vocab_size * c.d_model * table

    def _layer(self) -> float:
        """One token's results within a layer."""
        c = self.c
        return (8 * c.d_model + (3 * c.d_ff + 2 * c.num_heads * c.head_dim) / self.tensor) * self.width

    def _others(self) -> float:
        """Keys and values that attention gathers beside each token's own, of a layer."""
        return (self.places - 1) * self.cache() / self.c.num_layers

    def _kept(self, remat: str) -> float:
        """What is kept of one token and layer (model/remat.py): the input, what attention gives, what products give."""
        c = self.c
        products = 3 * c.d_model + 2 * ((c.num_heads + c.num_kv_heads) * c.head_dim + c.d_ff) / self.tensor
        attention = c.d_model + c.num_heads * c.head_dim / self.tensor
        numbers = {"full": c.d_model, "attention": attention, "dots": products}
        return numbers[remat] * self.width if remat in numbers else self._layer() + self._others()
