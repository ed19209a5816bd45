"""Sentence embeddings from a directory, for scores of summaries: any Hugging Face encoder, read by mean pooling."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from palimpsest.errors import InputError

BATCH = 16
LONGEST_WINDOW = 512


def load_encoder(directory: str | Path) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """Load a sentence encoder, such as all-MiniLM-L6-v2; nothing is fetched.

    The function it returns maps texts to vectors of length 1, [texts, hidden size]: the mean of the last hidden states
    over all tokens of the text. A text longer than the encoder's positions is read in windows side by side, so that
    nothing of it is left out.

    Raises:
        InputError: the directory holds no encoder with a tokenizer.

    Source: Reimers and Gurevych (2019), mean pooling.
    """
    from transformers import AutoModel, AutoTokenizer

    if not Path(directory).is_dir():
        raise InputError(f"{directory} is no directory; give one that holds a sentence encoder and its tokenizer.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        model = AutoModel.from_pretrained(directory, local_files_only=True, trust_remote_code=False).eval()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{directory} holds no sentence encoder that transformers can load: {reason}") from error
    window = min(getattr(model.config, "max_position_embeddings", LONGEST_WINDOW), LONGEST_WINDOW)

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> NDArray[np.float64]:
        rows = tokenizer(
            list(texts),
            truncation=True,
            max_length=window,
            padding=True,
            return_overflowing_tokens=True,
            return_tensors="pt",
        )
        sums = torch.zeros(len(texts), model.config.hidden_size, dtype=torch.float64)
        owners, ids, mask = rows["overflow_to_sample_mapping"], rows["input_ids"], rows["attention_mask"]
        for part in torch.arange(len(ids)).split(BATCH):
            states = model(input_ids=ids[part], attention_mask=mask[part]).last_hidden_state
            sums.index_add_(0, owners[part], (states * mask[part][..., None]).sum(1).double())
        return torch.nn.functional.normalize(sums, dim=1).numpy()  # the mean has the direction of the sum

    return encode
