"""Documents of few words, and the tokenizer of these words, for the tests of the probes on running text."""

from types import SimpleNamespace

import numpy as np

SEGMENT, WORDS, BEGIN, END, STOP = 4, 13, 1, 2, 3
TOKENIZER = SimpleNamespace(
    bos_token_id=BEGIN,
    eos_token_id=END,
    name_or_path="words",
    get_vocab=lambda: {f"w{number}": number for number in range(WORDS)},
    batch_decode=lambda rows: [" ends." if row == [STOP] else " goes" for row in rows],
    convert_ids_to_tokens=lambda number: f"w{number}",
)


def texts(count=5, length=27, seed=0):
    random = np.random.default_rng(seed)
    return [(f"d{number}", random.integers(4, WORDS, length)) for number in range(count)]
