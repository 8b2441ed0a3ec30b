"""The memory that a model takes on one device of the current mesh, by arithmetic; no device is touched.

Weights, gradients and moments are exact. Activations are estimates: all together come within an eighth of the memory
that the TPU compiler reserves, which launch/plan.py prints exactly; rollouts of short prompts take up to a fifth more.
"""

import dataclasses

import jax
import jax.numpy as jnp

from tljax.core.errors import InputError
from tljax.core.units import format_bytes
from tljax.distributed.mesh import device_bytes, shard_count, weight_shard_count
from tljax.model import cost
from tljax.model.llama import LlamaConfig


@dataclasses.dataclass(frozen=True, slots=True)
class StateBytes:
    """The bytes on one device that last as long as a run: weights, their gradients and Adam's two moments."""

    weights: float
    gradients: float
    moments: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.moments


def state_bytes(num_trained: int, num_frozen: int, compute_dtype: jax.typing.DTypeLike) -> StateBytes:
    """Returns the bytes of trained numbers, all in float32, and of frozen weights in the compute dtype.

    Norms and adapters, which the mesh does not split or splits less, count as if it split them like large weights.
    """
    shards = weight_shard_count()
    trained, frozen = 4 * num_trained / shards, jnp.dtype(compute_dtype).itemsize * num_frozen / shards
    return StateBytes(weights=trained + frozen, gradients=trained, moments=2 * trained)


def check_state_fits(state: float, description: str, remedy: str) -> None:
    """Raises InputError if `state` bytes of weights, gradients and moments alone exceed the memory of a device.

    description: the subject and verb of the message. remedy: its last clause.
    """
    mesh = jax.sharding.get_mesh()
    memory = device_bytes(mesh.local_devices[0])
    if memory is not None and state > memory:
        raise InputError(
            f"{description} {format_bytes(state, digits=1)} on each of {mesh.size} device{'s' * (mesh.size > 1)}, "
            f"which has {format_bytes(memory, digits=1)}; {remedy}"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceBatch:
    """The part of a batch that one device computes at a time.

    rows: may be a fraction if the rows do not divide over the mesh. tokens: of each row on this device.
    loss_chunk: targets of each row whose logits exist at the same time.
    """

    rows: float
    tokens: int
    loss_chunk: int


@dataclasses.dataclass(frozen=True)
class ActivationMemory:
    """Estimates the bytes on one device that a program takes besides weights, gradients, moments and inputs.

    tensor_shards: the parts that heads, feed-forward and vocabulary are split into. sequence_shards: the parts that the
    tokens of a row are split into. weight_shards: the parts that the large weights are split into. itemsize: bytes of
    one number in the compute dtype.
    """

    config: LlamaConfig
    tensor_shards: int
    sequence_shards: int
    weight_shards: int
    itemsize: int

    @classmethod
    def on_current_mesh(cls, c: LlamaConfig, compute_dtype: jax.typing.DTypeLike) -> "ActivationMemory":
        itemsize = jnp.dtype(compute_dtype).itemsize
        return cls(c, shard_count("heads"), shard_count("positions"), weight_shard_count(), itemsize)

    def train(self, batch: DeviceBatch, remat: str, trains_embedding: bool) -> float:
        """Returns the bytes of a forward and backward pass.

        They are the activations of every layer that `remat` saves, the results of one layer with their gradients,
        logits with their gradients, and the weights that are gathered from other devices.
        """
        # The weights of two layers exist at a time; those of all layers if the forward pass saves everything.
        gathered_layers = self.config.num_layers if remat == "none" else 2
        # A trained embedding is gathered in float32, and so is its gradient.
        embedding_itemsize = 8 if trains_embedding else self.itemsize
        saved = batch.rows * batch.tokens * self.config.num_layers * self._saved_per_token(remat)
        return saved + self._layer_and_logits(batch) + self._gathered_weights(gathered_layers, embedding_itemsize)

    def forward(self, batch: DeviceBatch) -> float:
        """Returns the bytes of a forward pass alone."""
        return self._layer_and_logits(batch) + self._gathered_weights(2, self.itemsize)

    def generate(self, rows: float, prompt_tokens: int, new_tokens: int) -> float:
        """Returns the bytes of generating `new_tokens` for each of `rows` prompts.

        They are a copy of the weights in a layout for decoding, the cache, and the results of one layer over the
        prompts with its gathered weights.
        """
        weights_copy = cost.count_weights(self.config) * self.itemsize / self.weight_shards
        cache = rows * (prompt_tokens + new_tokens) * self.cache_per_token()
        prefill = rows * prompt_tokens * self._layer_per_token()
        return weights_copy + cache + prefill + self._gathered_weights(2, self.itemsize)

    def cache_per_token(self) -> float:
        """Returns the bytes of one token's keys and values in all layers."""
        c = self.config
        return 2 * c.num_layers * c.num_kv_heads * c.head_dim * self.itemsize / self.tensor_shards

    def _layer_and_logits(self, batch: DeviceBatch) -> float:
        """The results of one layer with their gradients, and three copies of the float32 logits of one chunk."""
        logits = batch.rows * batch.loss_chunk * self.config.vocab_size * 4 / self.tensor_shards
        layer = self._layer_per_token() + self._gathered_keys_per_token()
        return 2 * batch.rows * batch.tokens * layer + 3 * logits

    def _gathered_weights(self, num_layers: int, embedding_itemsize: int) -> float:
        c = self.config
        layer = (cost.count_weights(c) - 2 * c.vocab_size * c.d_model) / c.num_layers
        embedding = c.vocab_size * c.d_model * embedding_itemsize
        return num_layers * layer * self.itemsize / self.tensor_shards + embedding

    def _layer_per_token(self) -> float:
        """The results of all operations within one layer."""
        c = self.config
        return (8 * c.d_model + (3 * c.d_ff + 2 * c.num_heads * c.head_dim) / self.tensor_shards) * self.itemsize

    def _gathered_keys_per_token(self) -> float:
        """The keys and values of one layer that attention gathers from the other parts of a row."""
        return (self.sequence_shards - 1) * self.cache_per_token() / self.config.num_layers

    def _saved_per_token(self, remat: str) -> float:
        """The results of one layer that the forward pass saves for the backward pass; see model/remat.py."""
        c = self.config
        products = 3 * c.d_model + 2 * ((c.num_heads + c.num_kv_heads) * c.head_dim + c.d_ff) / self.tensor_shards
        attention = c.d_model + c.num_heads * c.head_dim / self.tensor_shards
        numbers = {"full": c.d_model, "attention": attention, "dots": products}
        if remat == "none":
            return self._layer_per_token() + self._gathered_keys_per_token()
        return numbers[remat] * self.itemsize
