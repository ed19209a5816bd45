"""The symbolic tasks: the same questions as in text, one token per word, for models too small to spell."""
