"""What a model has read, as a file: read a long text once, ask many times, today or next week.

A snapshot is one safetensors file. Its metadata say which model it is of, down to the last bit of the weights, because
a state means nothing to any other: continuing it would give fluent nonsense. What is continued from a snapshot is
bit for bit what would have followed without it.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig

from palimpsest.errors import InputError
from palimpsest.models.cache import PalimpsestCache
from palimpsest.models.configuration import PalimpsestConfig
from palimpsest.schema import Closed, first_difference

if TYPE_CHECKING:
    from palimpsest.models.modeling import PalimpsestForCausalLM

FORMAT = 1
HEADER, AXES, SHA256 = "palimpsest.snapshot", "palimpsest.axes", "palimpsest.sha256"
"""Keys of the metadata: what the snapshot says of itself, how its tensors lay, and the SHA-256 of both and of them."""
LOGITS = "logits"
WITHOUT_EFFECT = {"attention_dropout", "initializer_range", "pretraining_tp", "use_cache"} | {
    f"{name}_token_id" for name in ("bos", "eos", "pad")
}
"""Keys of a configuration that change nothing in what a given model computes."""


class Source(Closed):
    """A text that was read: its length in bytes and their SHA-256."""

    bytes: int
    sha256: str


class Header(Closed):
    """What a snapshot says of itself.

    Attributes:
        format: version of the file format.
        palimpsest: version of the package that wrote it; empty if the model's code came with its checkpoint.
        configuration: what the model's configuration says that matters to what it computes.
        dtype: of the model.
        weights: SHA-256 of all weights, their names, dtypes and shapes.
        columns: tokens and padding read so far, the same for all rows.
        tokens: tokens read so far, of each row.
        sources: the texts that were read, in order, as far as the caller said.
    """

    format: Literal[1] = FORMAT
    palimpsest: str
    configuration: dict[str, Any]
    dtype: str
    weights: str
    columns: int
    tokens: tuple[int, ...]
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """What a model held at one moment.

    Attributes:
        header: whose it is, and how far it had come.
        tensors: what each layer held, as ``layers.NUMBER.NAME``, and the ``logits`` after the last token, if given.
        name: what messages call it: the file that it was read from.
    """

    header: Header
    tensors: dict[str, Tensor]
    name: str = "The snapshot"

    @property
    def logits(self) -> Tensor | None:
        """``[B, vocabulary]``, those after the last token, from which a text goes on; None if they were not kept."""
        return self.tensors.get(LOGITS)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the snapshot to a file, whole or not at all.

        Raises:
            InputError: it cannot be written there, or the disk is full.
        """
        path = Path(path)
        header = self.header.model_dump_json()
        axes = {name: _axes(x) for name, x in self.tensors.items()}
        tensors = {name: x.permute(axes[name]).contiguous() for name, x in self.tensors.items()}
        metadata = {HEADER: header, AXES: json.dumps(axes)}
        metadata[SHA256] = _digest(tensors, metadata[HEADER] + metadata[AXES])
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            save_file(tensors, partial, metadata)
            with open(partial, "rb") as written:
                os.fsync(written.fileno())
            os.replace(partial, path)
        except SafetensorError as error:  # the system's error, told by a library that is not written in Python
            raise InputError(f"The snapshot {path} cannot be written: {_one_line(error)}.") from error
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a snapshot from a file; its tensors are on the CPU.

        Raises:
            InputError: there is no such file, it is no snapshot, of a format of the future, or damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"There is no snapshot {path}.")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                # copies: a tensor mapped from a file may lie where kernels treat it differently, in its last bits
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is no snapshot, or not all of one: {_one_line(error)}.") from error
        if HEADER not in metadata or AXES not in metadata:
            raise InputError(f"{path} is a safetensors file but no snapshot of what a palimpsest model has read.")
        header = _header(metadata[HEADER], path)
        if _digest(tensors, metadata[HEADER] + metadata[AXES]) != metadata.get(SHA256):
            raise InputError(f"{path} is damaged: its SHA-256 is not that of its content.")
        axes = json.loads(metadata[AXES])
        return cls(header, {name: _as_it_lay(x, axes[name]) for name, x in tensors.items()}, str(path))


def take_snapshot(
    model: "PalimpsestForCausalLM",
    cache: PalimpsestCache,
    *,
    logits: Tensor | None = None,
    sources: tuple[Source, ...] = (),
) -> Snapshot:
    """Return what a cache of a model holds now; a pass that follows changes nothing in it.

    Args:
        model: the model that filled the cache.
        cache: what it has read.
        logits: ``[B, vocabulary]``, those after the last token, to be kept too.
        sources: the texts that it has read, to be remembered.

    Raises:
        InputError: nothing has been read.
    """
    if cache.seen is None:
        raise InputError("There is nothing to take a snapshot of: the model has read no token yet.")
    tensors = {
        f"layers.{number}.{name}": x.detach()
        for number, layer in enumerate(cache.layers)
        for name, x in layer.tensors().items()
    }
    if logits is not None:
        tensors[LOGITS] = logits.detach()
    header = Header(
        palimpsest=_version(),
        configuration=_configuration(model.config),
        dtype=_dtype(model),
        weights=_digest(model.state_dict()),
        columns=cache.columns,
        tokens=tuple(cache.seen.tolist()),
        sources=sources,
    )
    return Snapshot(header, tensors)


def restore_snapshot(model: "PalimpsestForCausalLM", snapshot: Snapshot | str | os.PathLike[str]) -> PalimpsestCache:
    """Return a cache from which the model goes on where the snapshot was taken, on the devices of its layers.

    Raises:
        InputError: the snapshot is of another model (what differs is named), or cannot be read.
    """
    snapshot = snapshot if isinstance(snapshot, Snapshot) else Snapshot.load(snapshot)
    _require_same_model(model, snapshot)
    cache = PalimpsestCache(model.config)
    cache.columns = snapshot.header.columns
    cache.seen = torch.tensor(snapshot.header.tokens, dtype=torch.long, device=model.device)
    for number, (layer, block) in enumerate(zip(cache.layers, model.model.layers, strict=True)):
        device = next(block.parameters()).device
        prefix = f"layers.{number}."
        held = {name.removeprefix(prefix): x for name, x in snapshot.tensors.items() if name.startswith(prefix)}
        layer.load({name: x.to(device) for name, x in held.items()})
    return cache


def _require_same_model(model: "PalimpsestForCausalLM", snapshot: Snapshot) -> None:
    header, dtype = snapshot.header, _dtype(model)
    different = first_difference(header.configuration, _configuration(model.config))
    if different is not None:
        key, there, here = different
        raise InputError(f"{snapshot.name} is of another model: its {key} is {there!r}, that of this model {here!r}.")
    if header.dtype != dtype:
        raise InputError(
            f"{snapshot.name} is of a model in another precision: {header.dtype}, and this one is {dtype}."
        )
    if header.weights != _digest(model.state_dict()):
        raise InputError(f"{snapshot.name} is of another model: its configuration is the same, its weights are not.")


def _configuration(config: PalimpsestConfig) -> dict[str, Any]:
    """Return what matters of a configuration, as JSON holds it."""
    everyones = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    own = [field.name for field in dataclasses.fields(config) if field.name not in everyones | WITHOUT_EFFECT]
    return json.loads(json.dumps({name: getattr(config, name) for name in own}))


def _version() -> str:
    try:
        return version("palimpsest-lm")
    except PackageNotFoundError:
        return ""


def _dtype(model: "PalimpsestForCausalLM") -> str:
    return str(model.dtype).removeprefix("torch.")


def _digest(tensors: Mapping[str, Tensor], header: str = "") -> str:
    """Return the SHA-256 of a header and of tensors: of names, dtypes, shapes and bytes, one tensor at a time."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {x.dtype} {list(x.shape)}\n".encode())
        digest.update(x.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _axes(x: Tensor) -> list[int]:
    """Return the axes of a tensor in the order in which it lies in memory, the innermost last.

    Kernels add up in another order where a matrix lies transposed, so that without this the last bits could differ.
    """
    return sorted(range(x.dim()), key=lambda axis: -x.stride(axis))


def _as_it_lay(x: Tensor, axes: list[int]) -> Tensor:
    """Undo ``permute(axes)`` without moving anything."""
    return x.permute(sorted(range(x.dim()), key=axes.__getitem__))


def _header(text: str, path: Path) -> Header:
    try:
        return Header.model_validate_json(text)
    except ValidationError as error:
        found = _format_of(text)
        if isinstance(found, int) and found > FORMAT:
            raise InputError(
                f"{path} is a snapshot of format {found}, and this version of palimpsest reads format {FORMAT}."
            ) from error
        raise InputError(f"{path} is damaged: its header is not that of a snapshot.") from error


def _format_of(text: str) -> object:
    try:
        return json.loads(text)["format"]
    except (ValueError, TypeError, KeyError):
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
