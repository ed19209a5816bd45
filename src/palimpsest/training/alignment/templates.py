"""Chat templates: which one renders the messages of a tokenizer, and whether it marks what the assistant says."""

from pathlib import Path
from typing import TYPE_CHECKING

from palimpsest.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "Assistant:{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] + '\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""A template that needs no token but the end of text, for tokenizers that bring none of their own."""


def give_template(tokenizer: "PreTrainedTokenizerBase", path: Path | None) -> None:
    """Give a tokenizer the template to render messages with, in which what the assistant says is marked.

    That is the one of a file, else the tokenizer's own (in TRL's version with marks, where it lacks them), else
    ``PLAIN``. A checkpoint keeps it with its tokenizer.

    Raises:
        InputError: the file cannot be read, or the template does not mark what the assistant says.
    """
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    where = "the tokenizer's chat template" if path is None else str(path)
    if path is not None:
        tokenizer.chat_template = _read(path)
    elif tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN
    if not isinstance(tokenizer.chat_template, str):
        raise InputError(f"{where} has several variants; put the one to train with into a file (data.template).")
    if not has_generation_markers(tokenizer.chat_template):
        try:
            marked = get_training_chat_template(tokenizer)
        except ValueError as error:
            raise InputError(
                f"{where} does not mark what the assistant says: put {{% generation %}} and {{% endgeneration %}} "
                "around it, and give that file as data.template."
            ) from error
        tokenizer.chat_template = tokenizer.chat_template if marked is None else marked


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"data.template: {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"data.template: {path} is not a text file (byte {error.start} is not UTF-8).") from error
