"""Alignment through TRL: fine-tuning on chats, preference optimisation, and putting back what that has bent."""

from palimpsest.training.alignment.directory import PreferenceRecord
from palimpsest.training.alignment.recipe import AlignmentRecipe, load_alignment
from palimpsest.training.alignment.restored import restore_run, restored_model, write_restored, write_turns
from palimpsest.training.alignment.run import align

__all__ = [
    "AlignmentRecipe",
    "PreferenceRecord",
    "align",
    "load_alignment",
    "restore_run",
    "restored_model",
    "write_restored",
    "write_turns",
]
