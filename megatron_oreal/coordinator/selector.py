"""From verified groups to the batch of one optimizer step."""

from collections.abc import Sequence

import torch

from megatron_oreal.oreal.advantage import advantages
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.oreal.selection import select
from megatron_oreal.trajectory import NEITHER, Group, Sample, SelectionCounts, TrainBatch


class Selector:
    """Keeps what the objective trains on, with the advantages over all K rewards of each question."""

    def __init__(self, objective: Objective, seed: int):
        self._objective = objective
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def state(self) -> str:
        """State of the random generator, hexadecimal; assign it to go on as from there."""
        return bytes(self._generator.get_state().tolist()).hex()

    @state.setter
    def state(self, value: str) -> None:
        self._generator.set_state(torch.tensor(list(bytes.fromhex(value)), dtype=torch.uint8))

    def select(self, groups: Sequence[Group]) -> TrainBatch:
        """One right and one wrong trajectory a question, or all (spec step 3). An empty batch where no question has both.

        A trajectory whose verdict is left out is never chosen; a question with fewer than two others is dropped.
        A chosen trajectory without a single token (aborted before the first one) cannot be trained on: left out and counted.
        """
        asked = len(groups)
        groups = [g for g in groups if g.counted >= 2]
        if not groups:
            return TrainBatch(counts=SelectionCounts(questions=asked, dropped_undecided=asked))
        groups = sorted(groups, key=lambda group: group.prompt.id)  # whatever the order of arrival, the same draw
        rewards = torch.tensor([g.rewards for g in groups], dtype=torch.float32)  # [questions, K]
        counted = rewards != NEITHER
        advantage = advantages(rewards, self._objective.advantage, counted)
        chosen = select(rewards, self._objective.keep, self._generator, counted)
        samples = [
            _sample(groups[question], index, float(advantage[question, index]))
            for question, index in chosen.kept
            if groups[question].trajectories[index].token_ids
        ]
        counts = SelectionCounts(
            questions=asked,
            kept=len({question for question, _ in chosen.kept}),
            dropped_all_right=chosen.dropped_all_right,
            dropped_all_wrong=chosen.dropped_all_wrong,
            dropped_undecided=asked - len(groups),
            empty_responses=len(chosen.kept) - len(samples),
        )
        return TrainBatch(samples, counts)


def _sample(group: Group, index: int, advantage: float) -> Sample:
    trajectory = group.trajectories[index]
    return Sample(
        prompt_id=group.prompt.id,
        prompt_ids=group.prompt.token_ids,
        response_ids=trajectory.token_ids,
        reward=group.rewards[index],
        advantage=advantage,
        pass_rate=group.pass_rate,
        version=trajectory.version,
        logprobs=trajectory.logprobs,
        index=trajectory.index,
        earlier=trajectory.earlier,
    )
