"""The laws that every memory obeys; see README.md in this folder."""
