"""A Hugging Face checkpoint from the running ranks: every pipeline stage writes its own safetensors file."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel

from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Models
from megatron_oreal.model import hf_weights
from megatron_oreal.model.hf_files import finish, write_part


def write_hf(chunks: Sequence[GPTModel], models: Models, run_dir: str | Path, ranks: Ranks, name: str = "hf") -> Path:
    """Write <run_dir>/<name>, a folder that transformers loads. Collective; whole or not at all (written aside, then renamed)."""
    final, partial = Path(run_dir) / name, Path(run_dir) / f".{name}.partial"
    if ranks.conducts:
        shutil.rmtree(partial, ignore_errors=True)
    ranks.barrier()
    stage, stages = parallel_state.get_pipeline_model_parallel_rank(), parallel_state.get_pipeline_model_parallel_world_size()
    if ranks.is_first_replica:
        tensors = list(hf_weights.export(chunks, models.dims))  # collective over TP, so every TP rank takes part
        if ranks.is_sender:
            write_part(partial, stage, stages, tensors)
    ranks.barrier()
    if ranks.conducts:
        finish(partial, stages, models.source.folder)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    ranks.barrier()
    return final
