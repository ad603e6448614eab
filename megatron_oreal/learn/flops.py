"""FLOPs that a training step cannot do without, for the share of the GPUs' peak that it reaches."""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_oreal.learn.packing import Cost
from megatron_oreal.trajectory import Sample


@dataclass(frozen=True)
class StepCost:
    """Forward passes count once and backward passes twice; what is computed again to save memory, and padding, does not count."""

    layers: Cost  # of a forward pass over a trajectory
    head: float  # FLOPs of the LM head for a response token
    token_rm: bool
    reference: bool

    @classmethod
    def of(cls, hf, layers: Cost, token_rm: bool, reference: bool) -> "StepCost":
        """Of models of an HF config."""
        return cls(layers, 2.0 * hf.hidden_size * hf.vocab_size, token_rm, reference)

    def flops(self, samples: Sequence[Sample], policy: bool) -> float:
        """Of all ranks together. `policy`: it is trained in this step, and so the reference is asked; else the token RM alone is."""
        return sum(self.of_stages(samples, policy).values())

    def of_stages(self, samples: Sequence[Sample], policy: bool) -> dict[str, float]:
        """The same by stages of a step, as learn.step names them."""
        layers = sum(self.layers(sample.length) for sample in samples)
        whole = layers + self.head * sum(len(sample.response_ids) for sample in samples)  # of a model with an LM head
        return {"token_rm": 3 * self.token_rm * layers, "reference": policy * self.reference * whole, "policy": policy * 3 * whole}
