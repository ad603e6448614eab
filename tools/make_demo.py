"""Make the demo task: a small Qwen2 model with random weights and arithmetic word problems with boxed answers.

    python tools/make_demo.py --out DIR [--seed S] [--train N] [--heldout 512] [--sft N]

It writes, the same for the same arguments:
    DIR/base/          Hugging Face model (random weights), tokenizer with a chat template, generation config
    DIR/sft.jsonl      question, response: solutions for the supervised start, imperfect ones among them
    DIR/train.jsonl    question, gold_answer
    DIR/heldout.jsonl  question, gold_answer, kind, level
No question stands in two of the three files.

The problems are of five kinds, with one to three steps of arithmetic (the level), all values from 1 to 30:
    change   a number of things that grows and shrinks
    packs    packs of so many each, then some more or fewer
    cost     so many at a price each, and something else besides
    times    one has so many times as many as another; how many together
    fewer    one has so many fewer than another; how many together

The supervised data is imperfect on purpose, as data gathered from people and models is: after faultless solutions alone, reinforcement
learning would have little to do. Four faults are in it, at the rates in `Faults`:
    slip      a written step has a wrong result, by 1, 2 or 10; the later steps go on from it
    leap      the writer stops writing steps and does the rest in the head, where a step goes wrong more often than on paper
    early     (kinds packs and times) the writer stops before the last step: forgets what happened last, or the other person's share
    misread   (kind fewer) the writer adds where "fewer" asks to subtract
The gold answers in the other two files are always right, and nothing but the final boxed answer is ever compared with them.
"""

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

NAMES = ("Ann", "Ben", "Eva", "Kim", "Leo", "Mia", "Sam", "Tom")
THINGS = ("books", "cards", "coins", "cups", "eggs", "pens", "shells", "stamps")
STOP = "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 512  # 256 bytes, 3 special tokens, 100 numbers, and merges enough that every word of the problems is one token
LARGEST = 30  # the largest number that comes up anywhere


class HasQuestion(Protocol):
    """A problem of any task."""

    @property
    def question(self) -> str: ...


Asked = TypeVar("Asked", bound=HasQuestion)


@dataclass(frozen=True)
class Operand:
    """A number of the question (`value`), or the result of an earlier step (`step`, counted from 0)."""

    value: int = 0
    step: int | None = None


@dataclass(frozen=True)
class Step:
    """One line of arithmetic: left, one of "+", "-", "*", right."""

    left: Operand
    operator: str
    right: Operand


@dataclass(frozen=True)
class Problem:
    """A question with the steps of its right solution; level is the number of steps."""

    kind: str
    question: str
    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        return results(self.steps)[-1]


@dataclass(frozen=True)
class Faults:
    """Rates of the faults in the supervised solutions: slip of written steps, leap of steps but the first, leap_wrong of steps in the head,
    early and misread of the solutions of the kind concerned."""

    slip: float = 0.05
    leap: float = 0.3
    leap_wrong: float = 0.5
    early: float = 0.6
    misread: float = 0.6


def results(steps: tuple[Step, ...], slip: Callable[[int], int] = lambda value: value) -> list[int]:
    """The result of every step in turn; `slip` maps each true result to the one that is written and carried on."""
    done: list[int] = []
    for step in steps:
        left, right = (operand.value if operand.step is None else done[operand.step] for operand in (step.left, step.right))
        done.append(slip({"+": left + right, "-": left - right, "*": left * right}[step.operator]))
    return done


def slipping(rng: random.Random, rate: float) -> Callable[[int], int]:
    """A function that returns its argument, at the given rate a value off by 1, 2 or 10; the sign of what falls below 0 is lost."""

    def slip(value: int) -> int:
        return abs(value + (rng.choice((-10, -2, -1, 1, 2, 10)) if rng.random() < rate else 0))

    return slip


def chain(rng: random.Random, first: list[Step], events: int) -> tuple[list[Step], list[str]]:
    """`first` and so many steps more, each adding to or taking from the result before it, with their words."""
    steps, words = list(first), []
    for _ in range(events):
        operator, amount = rng.choice("+-"), rng.randint(2, 7)
        steps.append(Step(Operand(step=len(steps) - 1), operator, Operand(amount)))
        words.append(f"gets {amount} more" if operator == "+" else f"loses {amount}")
    return steps, words


def change(rng: random.Random, level: int) -> tuple[str, list[Step]]:
    name, thing, have, amount = rng.choice(NAMES), rng.choice(THINGS), rng.randint(5, 25), rng.randint(2, 7)
    gets = rng.random() < 0.5
    first = Step(Operand(have), "+" if gets else "-", Operand(amount))
    steps, words = chain(rng, [first], level - 1)
    listed = ", then ".join([f"gets {amount} more" if gets else f"loses {amount}", *words])
    return f"{name} has {have} {thing}, {listed}. How many {thing} now?", steps


def packs(rng: random.Random, level: int) -> tuple[str, list[Step]]:
    name, thing, count, size = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, 6), rng.randint(2, 6)
    steps, words = chain(rng, [Step(Operand(count), "*", Operand(size))], level - 1)
    listed = ", then ".join([f"{name} buys {count} packs of {size} {thing}", *words])
    return f"{listed}. How many {thing} now?", steps


def cost(rng: random.Random, level: int) -> tuple[str, list[Step]]:
    name, (thing, other) = rng.choice(NAMES), rng.sample(THINGS, 2)
    count, price, count2, price2, fixed = (rng.randint(2, 6) for _ in range(5))
    steps = [Step(Operand(count), "*", Operand(price))]
    text = f"{name} buys {count} {thing} at {price} dollars each"
    if level == 2:
        text += f" and a box for {fixed} dollars"
        steps.append(Step(Operand(step=0), "+", Operand(fixed)))
    if level == 3:
        text += f" and {count2} {other} at {price2} dollars each"
        steps += [Step(Operand(count2), "*", Operand(price2)), Step(Operand(step=0), "+", Operand(step=1))]
    return f"{text}. How many dollars in all?", steps


def together(rng: random.Random, level: int, have: int, relation: str, first: Step) -> tuple[str, list[Step]]:
    """Two people: the second one's things (first step) and the first one's together (second step), then an event at level 3."""
    (name, friend), thing = rng.sample(NAMES, 2), rng.choice(THINGS)
    text = f"{name} has {have} {thing}. {friend} has {relation}."
    if level == 1:
        return f"{text} How many has {friend}?", [first]
    steps, words = chain(rng, [first, Step(Operand(step=0), "+", Operand(have))], level - 2)
    event = "".join(f" Then {friend} {word}." for word in words)
    return f"{text}{event} How many together?", steps


def times(rng: random.Random, level: int) -> tuple[str, list[Step]]:
    have, factor = rng.randint(2, 6), rng.randint(2, 5)
    return together(rng, level, have, f"{factor} times as many", Step(Operand(factor), "*", Operand(have)))


def fewer(rng: random.Random, level: int) -> tuple[str, list[Step]]:
    have, less = rng.randint(8, 18), rng.randint(2, 7)
    return together(rng, level, have, f"{less} fewer", Step(Operand(have), "-", Operand(less)))


KINDS = {"change": change, "packs": packs, "cost": cost, "times": times, "fewer": fewer}
LEVELS = (1, 2, 3)


def draw_problem(rng: random.Random) -> Problem:
    """A problem all of whose results lie in 1..LARGEST."""
    kind, level = rng.choice(list(KINDS)), rng.choice(LEVELS)
    while True:
        question, steps = KINDS[kind](rng, level)
        if all(1 <= result <= LARGEST for result in results(tuple(steps))):
            return Problem(kind, question, tuple(steps))


def draw_distinct(rng: random.Random, count: int, draw: Callable[[random.Random], Asked] = draw_problem) -> list[Asked]:
    """So many problems no two of which have the same question."""
    found: dict[str, Asked] = {}
    while len(found) < count:
        problem = draw(rng)
        found.setdefault(problem.question, problem)
    return list(found.values())


def misunderstood(problem: Problem, rng: random.Random, faults: Faults) -> tuple[Step, ...]:
    """The steps a writer of the supervised data means to take: the right ones, or at the rate of its kind those of the wrong habit."""
    if problem.kind in ("packs", "times") and len(problem.steps) > 1 and rng.random() < faults.early:
        return problem.steps[:-1]
    if problem.kind == "fewer" and rng.random() < faults.misread:
        first = problem.steps[0]
        return (Step(first.left, "+", first.right), *problem.steps[1:])
    return problem.steps


def solution(problem: Problem, rng: random.Random, faults: Faults) -> str:
    """A solution as the supervised data has them: "First 6*7=42. Then 42-5=37. So \\boxed{37}", with faults at the given rates."""
    steps = misunderstood(problem, rng, faults)
    written = 1
    while written < len(steps) and rng.random() >= faults.leap:
        written += 1
    on_paper, in_head = slipping(rng, faults.slip), slipping(rng, faults.leap_wrong)
    turn = iter(range(len(steps)))
    done = results(steps, lambda value: (on_paper if next(turn) < written else in_head)(value))
    text = ""
    for number, step in enumerate(steps[:written]):
        left, right = (operand.value if operand.step is None else done[operand.step] for operand in (step.left, step.right))
        text += f"{'Then' if number else 'First'} {left}{step.operator}{right}={done[number]}. "
    return f"{text}So \\boxed{{{done[-1]}}}"


def make_tokenizer():
    """The demo's; the same for every seed."""
    rng = random.Random(0)
    problems = draw_distinct(rng, 3000)
    return tokenizer_of([f"user\n{problem.question}\nassistant\n{solution(problem, rng, Faults())}" for problem in problems])


def tokenizer_of(texts: list[str]):
    """Byte-level BPE of these texts, with the numbers 0 to 99 as tokens and the end of turn as the one stop token.

    It is a Qwen2Tokenizer because AutoTokenizer (transformers 5) makes one of any tokenizer beside a Qwen2 model, and that class takes
    digits apart before all else: numbers are tokens only when they are added as such, which keeps solutions short.
    """
    from transformers import Qwen2Tokenizer

    numbers = [str(number) for number in range(100)]
    blank = Qwen2Tokenizer(eos_token=STOP, pad_token="<|endoftext|>", extra_special_tokens=["<|im_start|>"], model_max_length=1024)
    tokenizer = blank.train_new_from_iterator(texts, VOCABULARY - len(numbers), show_progress=False)
    tokenizer.add_tokens(numbers)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def write_base(out: Path, seed: int, tokenizer) -> None:
    """Writes the model (about 0.7 M parameters, random), its tokenizer and generation config."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 8) * 8,  # a multiple of 8, so that tensor parallelism divides it
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_demo(out: Path, seed: int, train: int, heldout: int, sft: int, faults: Faults) -> None:
    """Writes everything the module's docstring names under `out`, made if it is missing."""
    rng = random.Random(seed)
    problems = draw_distinct(rng, heldout + train + sft)
    held, training, supervised = problems[:heldout], problems[heldout : heldout + train], problems[heldout + train :]
    responses = [solution(problem, rng, faults) for problem in supervised]
    out.mkdir(parents=True, exist_ok=True)
    labels = [{"kind": problem.kind, "level": len(problem.steps)} for problem in held]
    asked = [{"question": problem.question, "gold_answer": str(problem.answer)} for problem in held + training]
    write_lines(out / "heldout.jsonl", [row | label for row, label in zip(asked, labels, strict=False)])
    write_lines(out / "train.jsonl", asked[heldout:])
    pairs = zip(supervised, responses, strict=True)
    write_lines(out / "sft.jsonl", [{"question": p.question, "response": response} for p, response in pairs])
    write_base(out / "base", seed, make_tokenizer())


def write_as_asked(make: Callable[[Path, int, int, int, int], None], title: str, heldout: int, sft: int, argv: list[str] | None) -> None:
    """The command of a task: `make(out, seed, train, heldout, sft)` by its options; `heldout` and `sft` are their defaults."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, made if it is missing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=1000, help="training questions")
    parser.add_argument("--heldout", type=int, default=heldout, help="held-out questions")
    parser.add_argument("--sft", type=int, default=sft, help="supervised solutions")
    asked = parser.parse_args(argv)
    make(asked.out, asked.seed, asked.train, asked.heldout, asked.sft)
    print(f"{asked.out}: {asked.sft} solutions, {asked.train} training and {asked.heldout} held-out questions")


def main(argv: list[str] | None = None) -> None:
    write_as_asked(partial(make_demo, faults=Faults()), __doc__.split("\n", 1)[0], heldout=512, sft=16000, argv=argv)


if __name__ == "__main__":
    main()
