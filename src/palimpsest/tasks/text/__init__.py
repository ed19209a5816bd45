"""The tasks in text: for any tokenizer that begins a new token at every space, in exact numbers of tokens."""
