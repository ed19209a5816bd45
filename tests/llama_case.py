"""Tiny LLaMA models that several tests convert."""

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

SEGMENT = 16
SIZES: dict = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
}
LLAMAS: dict[str, dict] = {
    "grouped": {},
    "one_key_head": {"num_key_value_heads": 1},
    "no_groups": {"num_key_value_heads": 4},
    "wide_heads": {"head_dim": 16},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "rope_llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
}


def llama(kind: str = "grouped", dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """Return a LLaMA with weights large enough that every part matters."""
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(LlamaConfig(**(SIZES | LLAMAS[kind]))).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.dim() == 1 else 0.2, generator=generator)
    return model.to(dtype)


def tokens(length: int, batch: int = 3) -> Tensor:
    return torch.randint(4, SIZES["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(1))
