"""A conversion, checked, in its two directions, and the comparison. One parameter is in memory at a time, whatever the model's size."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron_oreal.convert.megatron_files import MegatronFolder, MegatronWriter
from megatron_oreal.convert.place import new_folder
from megatron_oreal.model import blueprint, gpt
from megatron_oreal.model.blueprint import Piece
from megatron_oreal.model.config import ONE_RANK, Layout
from megatron_oreal.model.hf_files import HEAD_BIAS, HFFolder, TensorSpec, carry_along, read_config, same_bits
from megatron_oreal.model.hf_weights import HEAD_NAME, Entry
from megatron_oreal.model.hf_writer import assign_shards, complete, write_shards

Progress = Callable[[int], None]  # told of every so many bytes done


@dataclass(frozen=True)
class Job:
    """A conversion that has been checked: its input is whole and of the right shapes."""

    hf_config: object
    role: gpt.Role
    specs: dict[str, TensorSpec]  # Hugging Face name -> what is read or written, in the model's order; a head's (zero) bias last
    source: HFFolder | MegatronFolder
    beside: Path  # folder with the Hugging Face config and tokenizer
    left_out: str = ""  # what the source holds beside the model's tensors

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.specs.values())


def check_hf(folder: Path) -> Job:
    """Read config and headers of a Hugging Face folder and compare them with the weight table.

    Raises:
        ValueError: one line with the file or the name.
    """
    config, role, source = blueprint.open_model(folder)
    specs = {name: source.specs[name] for name in [*blueprint.hf_shapes(config, role), HEAD_BIAS] if name in source}
    formats: dict[str, tuple] = {}
    for entry, pieces in _whole(config, role):
        for name in entry.hf_names:
            first, dtype = formats.setdefault(pieces[0].key, (name, specs[name].dtype))
            if specs[name].dtype != dtype:
                raise ValueError(f"model: {folder}: {first} is {dtype} and {name} {specs[name].dtype}; in Megatron they are one tensor")
    return Job(config, role, specs, source, folder, ", ".join(sorted(set(source) - set(specs))))


def check_megatron(folder: Path, hf_config: Path | None) -> Job:
    """Read what a Megatron checkpoint holds and compare it with a Hugging Face config, which may lie in the same folder.

    Raises:
        ValueError: one line with the file or the name.
    """
    source = MegatronFolder(folder)
    if hf_config is None and not (folder / "config.json").is_file():
        raise ValueError(f"convert: {folder} holds no config.json; give --hf-config, the folder of a model of this shape")
    config = read_config(hf_config or folder)
    role: gpt.Role = "token_rm" if source.has_score_head else "policy"
    entries = _whole(config, role)
    source.check(piece for _, pieces in entries for piece in pieces)
    shapes, specs = blueprint.hf_shapes(config, role), {}
    for entry, pieces in entries:
        specs |= {name: TensorSpec(source.dtype(pieces[0]), shapes[name]) for name in entry.hf_names}
    if _head_form(config, role) == "ForTokenClassification":
        specs[HEAD_BIAS] = TensorSpec(specs[HEAD_NAME].dtype, (1,))
    left_out = f"{source.beside} entries (optimizer, random generators)" if source.beside else ""
    return Job(config, role, specs, source, hf_config or folder, left_out)


def to_megatron(job: Job, out: Path, layout: Layout, advance: Progress) -> None:
    """Write `out` (see megatron_files) with one file a rank of the TP x PP layout, from a job of check_hf.

    Raises:
        ValueError: the model does not divide by the layout; `out` exists; not enough disk.
        OSError: writing failed. Whatever is raised, nothing is left of it.
    """
    gpt.check_architecture(job.hf_config, layout)
    dims = blueprint.dims_of(job.hf_config)
    with new_folder(out, job.nbytes) as partial:
        writer = MegatronWriter(partial)
        for rank, held in enumerate(blueprint.rank_contents(job.hf_config, job.role, layout)):
            writer.open_rank(rank)
            for key in held.objects:
                writer.write_object(key)
            for entry, pieces in held.entries:
                if pieces:
                    sources = [job.source[name] for name in entry.hf_names]
                    value = entry.layout.shard(sources, held.tp_rank, layout.tp, dims).contiguous()
                    for piece in pieces:
                        writer.write(piece, piece.of(value))
                    advance(value.nbytes)
        writer.finish()
        carry_along(job.beside, partial)


def to_hf(job: Job, out: Path, max_shard_bytes: int, advance: Progress) -> None:
    """Write the Hugging Face folder `out` from a job of check_megatron.

    Raises:
        ValueError: `out` exists; not enough disk.
        OSError: writing failed. Whatever is raised, nothing is left of it.
    """
    shards = assign_shards(job.specs, max_shard_bytes)
    with new_folder(out, job.nbytes) as partial:
        write_shards(partial, shards, _hf_tensors(job, job.source, advance))
        complete(partial, job.beside, job.hf_config, _head_form(job.hf_config, job.role))


def compare(job: Job, other: HFFolder | MegatronFolder, advance: Progress) -> list[str]:
    """Read both sides again and compare every tensor bit for bit; the names of those that differ, or that one side alone holds.

    The job's source is one side, `other` the other one. Names are Hugging Face's, or Megatron's where they have no other.
    """
    hf, megatron = (job.source, other) if isinstance(job.source, HFFolder) else (other, job.source)
    entries = _whole(job.hf_config, job.role)
    differ = [name for entry, pieces in entries if any(map(megatron.lacks, pieces)) for name in entry.hf_names]
    for name, tensor in _hf_tensors(job, megatron, advance, besides=differ):
        if name not in hf or hf.specs[name] != TensorSpec(tensor.dtype, tuple(tensor.shape)) or not same_bits(hf[name], tensor):
            differ.append(name)
    unknown = megatron.strays(piece for _, pieces in entries for piece in pieces)
    return differ + unknown + list(hf.strays(job.specs, blueprint.is_tied(job.hf_config, job.role)))


def _whole(config, role: gpt.Role) -> list[tuple[Entry, list[Piece]]]:
    (whole,) = blueprint.rank_contents(config, role, ONE_RANK)
    return whole.entries


def _hf_tensors(job: Job, megatron: MegatronFolder, advance: Progress, besides: Sequence[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a Megatron checkpoint under their Hugging Face names (but for some), in the order of the job's specs."""
    dims = blueprint.dims_of(job.hf_config)
    for entry, pieces in _whole(job.hf_config, job.role):
        if entry.hf_names[0] in besides:
            continue
        value = torch.empty(entry.parameter.shape, dtype=megatron.dtype(pieces[0]))
        for piece in pieces:
            megatron.read(piece, piece.of(value))
        yield from zip(entry.hf_names, entry.layout.join(value[None], dims), strict=True)
        advance(value.nbytes)
    if HEAD_BIAS in job.specs:
        yield HEAD_BIAS, torch.zeros(1, dtype=job.specs[HEAD_BIAS].dtype)


def _head_form(hf_config, role: gpt.Role) -> str:
    """With which of transformers' heads a model is written: a token RM stays what its config says it is."""
    if role == "policy":
        return "ForCausalLM"
    named = (getattr(hf_config, "architectures", None) or [""])[0]
    return "ForSequenceClassification" if named.endswith("ForSequenceClassification") else "ForTokenClassification"
