"""GGUF files of small models, as llama.cpp's converter writes them; nothing here comes from the code under test."""

import gguf
import numpy as np

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(hf_name):
    name, _, kind = hf_name.rpartition(".")
    if not name.startswith("model.layers."):
        return f"{NAMES[name]}.{kind}"
    _, _, layer, name = name.split(".", 3)
    return f"blk.{layer}.{NAMES[name]}.{kind}"


def interleave(weight, heads):
    """The rows of queries or keys in the order of llama.cpp's llama."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def byte_level_vocabulary(size):
    """256 bytes, some merges, and special tokens at the end."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = [letter for _, letter in sorted(bytes_to_unicode().items())]
    merges = [("t", "h"), ("th", "e"), ("\u0120", "the"), ("i", "n"), ("1", "2"), ("\u0120", "\u0120")]
    tokens = [*letters, *(a + b for a, b in merges)]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    padding = [f"[PAD{i}]" for i in range(len(tokens), size - len(special))]
    tokens += [*padding, *special]
    types = [1] * (len(tokens) - len(padding) - 3) + [5] * len(padding) + [3] * 3
    return tokens, [f"{a} {b}" for a, b in merges], types


def write_model(path, model, architecture="llama", kind="F32", change=None):
    """Writes a torch model; change(writer, tensors) may add to the file or alter its tensors {name: (array, type)}."""
    c = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    writer.add_rope_dimension_count(head_dim)
    if head_dim != c.hidden_size // c.num_attention_heads:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    write_tokenizer(writer, c.vocab_size)
    tensors = {}
    for name, weight in model.state_dict().items():
        if c.tie_word_embeddings and name == "lm_head.weight":
            continue
        array = weight.float().numpy()
        if architecture in ("llama", "mistral") and ("q_proj" in name or "k_proj" in name):
            array = interleave(array, c.num_attention_heads if "q_proj" in name else c.num_key_value_heads)
        tensors[gguf_name(name)] = (array, kind if array.ndim > 1 else "F32")
    if change is not None:
        change(writer, tensors)
    add_tensors(writer, tensors)
    return path


def add_tensors(writer, tensors):
    """Writes tensors {name: (array, name of the type)} and closes the file."""
    for name, (array, kind) in tensors.items():
        quantization = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(array, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_tokenizer(writer, size):
    tokens, merges, types = byte_level_vocabulary(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(size - 2)
    writer.add_eos_token_id(size - 1)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
