"""What of the models is in a host's memory, and what writing and reading checkpoints and exports takes of it. Of a GPU's: see stages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.devices import GIB
from megatron_oreal.model.shape import padded_vocab_size
from megatron_oreal.plan.build import Built
from megatron_oreal.plan.memory import Formula
from megatron_oreal.plan.stages import Obstacle


@dataclass(frozen=True)
class Files:
    """Bytes, of the host that needs most."""

    optimizers: int  # pinned, for good (optimizer.on_host)
    resting: int  # pinned: what models give up of their GPUs between turns (compute.offload=all)
    saving: int  # pinned, and kept from the first checkpoint on: one copy of what the host's ranks write, as far as it is not there
    exporting: int  # while Hugging Face files are written: a stage's weights, on its first rank
    loading: int  # one tensor at a time on each rank, however many ranks wrote it

    @classmethod
    def of(cls, config: TrainConfig | SftConfig, formula: Formula, models: Sequence[Built], gpus_per_host: int) -> "Files":
        """Arguments: as of stages.stages_of."""
        work, parallel = formula.work, config.parallel
        here, per_stage = min(gpus_per_host, work.gpus), work.gpus // parallel.pp
        hosts = [range(first, first + here) for first in range(0, work.gpus, here)]

        rests = config.compute.offload == "all"

        def written(rank: int) -> int:
            stage, place = divmod(rank, per_stage)
            here = [m for m in models if m.stage == stage and m.role != "reference"]
            if rests:
                return sum(m.weights * (place < parallel.tp) for m in here if m.role == "policy")
            return sum(saved(m, parallel.tp, per_stage, place) - m.on_host for m in here)

        def at_rest(rank: int) -> int:
            return rests * sum(m.optimizer + m.weights * (m.role != "policy") for m in models if m.stage == rank // per_stage)

        def optimizers(rank: int) -> int:
            return sum(m.on_host for m in models if m.stage == rank // per_stage)

        policy = {m.stage: m.weights * parallel.tp for m in models if m.role == "policy"}
        first_ranks = [[rank // per_stage for rank in host if rank % per_stage == 0] for host in hosts]
        return cls(
            max(sum(map(optimizers, host)) for host in hosts),
            max(sum(map(at_rest, host)) for host in hosts),
            max(sum(map(written, host)) for host in hosts),
            max(sum(policy[stage] for stage in stages) for stages in first_ranks),
            here * largest_read(formula),
        )

    @property
    def most(self) -> int:
        """At one time: what is pinned, and an export; checkpoints are read before."""
        return self.optimizers + self.resting + self.saving + self.exporting


def host_obstacles(files: Files, memory: int) -> Iterator[Obstacle]:
    """Why it does not fit into `memory` bytes of a host, engines and processes apart."""
    if files.most > memory:
        parts = f"optimizers {files.optimizers / GIB:.1f}, at rest {files.resting / GIB:.1f}, a checkpoint's copy {files.saving / GIB:.1f}"
        yield Obstacle(f"a host needs {files.most / GIB:.1f} GiB of its memory beside the engines' ({parts}), and has {memory / GIB:.1f}")


def saved(model: Built, tp: int, ranks: int, place: int) -> int:
    """Bytes that a rank writes of a model: its part of the optimizer, and of what is the same on others the first ones.

    Args:
        ranks: of the stage.
        place: of the rank among them; tensor-parallel ones come first.
    """
    return model.parameters * model.saved * tp // ranks + model.weights * (place < tp)


def largest_read(formula: Formula) -> int:
    """Bytes of the largest tensor in a file: of a rank that had a whole parameter to itself, in float32."""
    hf, tp = formula.hf, formula.work.parallel.tp
    return 4 * hf.hidden_size * max(hf.intermediate_size, padded_vocab_size(hf, tp)) // tp
