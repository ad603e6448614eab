"""The two directions and the comparison. One parameter is in memory at a time, whatever the model's size."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron_oreal.config import ParallelConfig
from megatron_oreal.convert.megatron_files import MegatronFolder, MegatronWriter
from megatron_oreal.convert.place import new_folder
from megatron_oreal.model import blueprint, gpt
from megatron_oreal.model.blueprint import HEAD_BIAS, Piece
from megatron_oreal.model.hf_files import HFFolder, TensorSpec, carry_along, read_config
from megatron_oreal.model.hf_weights import HEAD_NAME, Entry
from megatron_oreal.model.hf_writer import plan_shards, write_index, write_shards

Progress = Callable[[int], None]  # told of every so many bytes done


@dataclass(frozen=True)
class Job:
    """A conversion that has been checked: its input is whole and of the right shapes."""

    hf_config: object
    role: gpt.Role
    specs: dict[str, TensorSpec]  # Hugging Face name -> what is read or written, in the model's order
    source: HFFolder | MegatronFolder
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
    specs = {name: source.specs[name] for name in blueprint.hf_shapes(config, role)}
    formats: dict[str, tuple] = {}
    for entry, pieces in _whole(config, role):
        for name in entry.hf_names:
            first, dtype = formats.setdefault(pieces[0].key, (name, specs[name].dtype))
            if specs[name].dtype != dtype:
                raise ValueError(f"model: {folder}: {first} is {dtype} and {name} {specs[name].dtype}; in Megatron they are one tensor")
    return Job(config, role, specs, source, ", ".join(sorted(set(source) - set(specs))))


def check_megatron(folder: Path, hf_config: Path) -> Job:
    """Read what a Megatron checkpoint holds and compare it with a Hugging Face config.

    Raises:
        ValueError: one line with the file or the name.
    """
    config, source = read_config(hf_config), MegatronFolder(folder)
    role: gpt.Role = "token_rm" if source.has_score_head else "policy"
    entries = _whole(config, role)
    source.check(piece for _, pieces in entries for piece in pieces)
    shapes, specs = blueprint.hf_shapes(config, role), {}
    for entry, pieces in entries:
        specs |= {name: TensorSpec(source.dtype(pieces[0]), shapes[name]) for name in entry.hf_names}
    beside = f"{source.beside} entries (optimizer, random generators)" if source.beside else ""
    return Job(config, role, specs, source, beside)


def to_megatron(job: Job, out: Path, parallel: ParallelConfig, advance: Progress) -> None:
    """Write `out` (see megatron_files) with one file a rank of the TP x PP layout, from a job of check_hf.

    Raises:
        ValueError: the model does not divide by the layout; `out` exists; not enough disk.
        OSError: writing failed. Whatever is raised, nothing is left of it.
    """
    gpt.check_architecture(job.hf_config, parallel)
    dims = blueprint.dims_of(job.hf_config)
    with new_folder(out, job.nbytes) as partial:
        writer = MegatronWriter(partial)
        for rank, plan in enumerate(blueprint.plans(job.hf_config, job.role, parallel)):
            writer.open_rank(rank)
            for key in plan.objects:
                writer.write_object(key)
            for entry, pieces in plan.entries:
                if pieces:
                    sources = [job.source[name] for name in entry.hf_names]
                    value = entry.layout.shard(sources, plan.tp_rank, parallel.tp, dims).contiguous()
                    for piece in pieces:
                        writer.write(piece, piece.of(value))
                    advance(value.nbytes)
        writer.finish()
        carry_along(job.source.folder, partial)


def to_hf(job: Job, hf_config: Path, out: Path, max_shard_bytes: int, advance: Progress) -> None:
    """Write the Hugging Face folder `out` from a job of check_megatron; config and tokenizer come from `hf_config`.

    Raises:
        ValueError: `out` exists; not enough disk.
        OSError: writing failed. Whatever is raised, nothing is left of it.
    """
    specs = dict(job.specs)
    head = _head_form(job)
    if head == "ForTokenClassification":
        specs[HEAD_BIAS] = TensorSpec(specs[HEAD_NAME].dtype, (1,))
    shards = plan_shards(specs, max_shard_bytes)
    with new_folder(out, job.nbytes) as partial:
        write_shards(partial, shards, _with_bias(_hf_tensors(job, advance), specs))
        write_index(partial)
        carry_along(hf_config, partial)
        _fit_config(partial / "config.json", job, head)


def compare(job: Job, other: HFFolder | MegatronFolder, advance: Progress) -> list[str]:
    """Read both sides again and compare every tensor bit for bit; the names of those that differ, by their Hugging Face names.

    The job's source is one side, `other` the other one.
    """
    hf, megatron = (job.source, other) if isinstance(job.source, HFFolder) else (other, job.source)
    differ = [name for entry, pieces in _whole(job.hf_config, job.role) if any(map(megatron.lacks, pieces)) for name in entry.hf_names]
    for name, tensor in _hf_tensors(Job(job.hf_config, job.role, job.specs, megatron), advance, besides=differ):
        if name not in hf or hf.specs[name] != TensorSpec(tensor.dtype, tuple(tensor.shape)) or not _same_bits(hf[name], tensor):
            differ.append(name)
    unknown = set(hf) - set(job.specs) - {HEAD_BIAS}
    return differ + sorted(unknown - {"lm_head.weight"} if blueprint.is_tied(job.hf_config, job.role) else unknown)


def _whole(config, role: gpt.Role) -> list[tuple[Entry, list[Piece]]]:
    (plan,) = blueprint.plans(config, role, ParallelConfig())
    return plan.entries


def _hf_tensors(job: Job, advance: Progress, besides: Sequence[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a Megatron checkpoint under their Hugging Face names (but for some), in the model's order."""
    dims = blueprint.dims_of(job.hf_config)
    for entry, pieces in _whole(job.hf_config, job.role):
        if entry.hf_names[0] in besides:
            continue
        value = torch.empty(entry.parameter.shape, dtype=job.source.dtype(pieces[0]))
        for piece in pieces:
            job.source.read(piece, piece.of(value))
        yield from zip(entry.hf_names, entry.layout.join([value], dims), strict=True)
        advance(value.nbytes)


def _with_bias(tensors: Iterator[tuple[str, Tensor]], specs: dict[str, TensorSpec]) -> Iterator[tuple[str, Tensor]]:
    yield from tensors
    if HEAD_BIAS in specs:
        yield HEAD_BIAS, torch.zeros(1, dtype=specs[HEAD_BIAS].dtype)


def _same_bits(a, b: Tensor, rows: int = 8192) -> bool:
    """Equal as bits, some rows at a time: NaN equals itself, and 0 is not -0."""
    kind = {2: torch.int16, 4: torch.int32}[b.element_size()]
    blocks = (slice(i, i + rows) for i in range(0, b.shape[0], rows))
    return all(torch.equal(a[block].contiguous().view(kind), b[block].contiguous().view(kind)) for block in blocks)


def _head_form(job: Job) -> str:
    """With which of transformers' heads a model is written: a token RM stays what its config says it is."""
    if job.role == "policy":
        return "ForCausalLM"
    named = (getattr(job.hf_config, "architectures", None) or [""])[0]
    return "ForSequenceClassification" if named.endswith("ForSequenceClassification") else "ForTokenClassification"


def _fit_config(path: Path, job: Job, head: str) -> None:
    """Change in config.json what the weights decide: head and number format; a file that says so already keeps its bytes."""
    config = json.loads(path.read_text())
    family = next(name.removesuffix(suffix) for name in _architectures(config, job) for suffix in blueprint.HEADS if name.endswith(suffix))
    changed = config | {"architectures": [family + head]}
    formats = {str(spec.dtype).removeprefix("torch.") for spec in job.specs.values()}
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    if len(formats) == 1:
        changed[key] = formats.pop()
    if job.role == "token_rm" and job.hf_config.num_labels != 1:
        changed |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    if changed != config:
        path.write_text(json.dumps(changed, indent=2) + "\n")


def _architectures(config: dict, job: Job) -> list[str]:
    families = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}
    return config.get("architectures") or [families[job.hf_config.model_type] + "ForCausalLM"]
