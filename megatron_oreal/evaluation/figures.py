"""Answers in, figures out: of a set, and of its parts by subject and level."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from megatron_oreal.evaluation.answers import Answer, Answers, Way
from megatron_oreal.evaluation.sets import Problem, ProblemSet
from megatron_oreal.evaluation.statistics import Estimate, clustered, lengths, majority, pass_at_k
from megatron_oreal.evaluation.votes import Same, groups

NO_LABEL = "-"


@dataclass(frozen=True)
class Sampled:
    """Of n sampled answers a question."""

    samples: int
    average: Estimate  # avg@n: share of right answers
    pass_at: dict[int, Estimate]  # k -> at least one of k is right
    majority: Estimate  # majority@n: the most frequent answer is right
    incomplete: float  # share of answers
    undecided: int
    length_mean: float
    length_median: float
    length_p95: float


@dataclass(frozen=True)
class Evaluation:
    """Of the greedy answers, and of the sampled ones where there are any. A question too long to ask counts as wrong."""

    pass_at_1: float  # share of questions whose greedy answer is right
    problems: int  # questions in the file
    not_asked: int  # questions too long for the context
    incomplete: float  # share of answers cut at the length limit
    undecided: int  # answers that the verifier could not judge (counted as not right, whatever verify.undecided says)
    length_mean: float  # response tokens
    pass_at_1_interval: tuple[float, float] = (0.0, 1.0)
    length_median: float = 0.0
    length_p95: float = 0.0
    sampled: Sampled | None = None


@dataclass(frozen=True)
class Report:
    """A set's figures and tables."""

    all: Evaluation
    by_subject: dict[str, Evaluation] = field(default_factory=dict)  # empty where no question has one
    by_level: dict[str, Evaluation] = field(default_factory=dict)


def report(problem_set: ProblemSet, answers: Answers, same: Same) -> Report:
    """Figures of a set and of its parts. Questions without answers were too long to ask."""
    votes = _majorities(problem_set, answers, same)

    def of(problems: Sequence[Problem]) -> Evaluation:
        return _evaluation(problem_set, problems, answers, votes)

    by_subject = _parts(problem_set.problems, lambda problem: problem.subject)
    by_level = _parts(problem_set.problems, lambda problem: problem.level)
    tables = ({name: of(some) for name, some in parts.items()} for parts in (by_subject, by_level))
    return Report(of(problem_set.problems), *tables)


def scores(problem_set: ProblemSet, answers: Answers) -> list[float]:
    """[questions] the share of right answers: of the sampled ones where there are any, else of the greedy one."""
    way: Way = "sampled" if problem_set.asked.samples > 1 else "greedy"
    return [_share(_of(problem_set, problem, way, answers)) for problem in problem_set.problems]


def metrics(name: str, evaluation: Evaluation) -> dict[str, float]:
    """Under the names of metrics.jsonl: eval/<set>/..."""
    plain = ("pass_at_1", "problems", "not_asked", "incomplete", "undecided", "length_mean", "length_median", "length_p95")
    found = {f"eval/{name}/{field}": getattr(evaluation, field) for field in plain}
    sampled = evaluation.sampled
    if sampled is None:
        return found
    return found | {
        f"eval/{name}/avg_at_{sampled.samples}": sampled.average.value,
        **{f"eval/{name}/pass_at_{k}": estimate.value for k, estimate in sampled.pass_at.items() if k > 1},  # pass@1 of them is the average
        f"eval/{name}/majority_at_{sampled.samples}": sampled.majority.value,
        f"eval/{name}/sampled_incomplete": sampled.incomplete,
        f"eval/{name}/sampled_undecided": sampled.undecided,
        f"eval/{name}/sampled_length_mean": sampled.length_mean,
    }


def _evaluation(problem_set: ProblemSet, problems: Sequence[Problem], answers: Answers, votes: dict[str, float]) -> Evaluation:
    greedy = [_of(problem_set, problem, "greedy", answers) for problem in problems]
    given = [answer for some in greedy for answer in some]
    pass_at_1 = clustered([_share(some) for some in greedy])
    length = lengths([answer.tokens for answer in given])
    return Evaluation(
        pass_at_1=pass_at_1.value,
        problems=len(problems),
        not_asked=sum(not some for some in greedy),
        incomplete=_incomplete(given),
        undecided=sum(not answer.decided for answer in given),
        length_mean=length.mean,
        pass_at_1_interval=(pass_at_1.low, pass_at_1.high),
        length_median=length.median,
        length_p95=length.p95,
        sampled=_sampled(problem_set, problems, answers, votes) if problem_set.asked.samples > 1 else None,
    )


def _sampled(problem_set: ProblemSet, problems: Sequence[Problem], answers: Answers, votes: dict[str, float]) -> Sampled:
    each, ks = problem_set.asked.samples, problem_set.asked.k
    by_question = [_of(problem_set, problem, "sampled", answers) for problem in problems]
    given = [answer for some in by_question for answer in some]
    right = [sum(answer.right for answer in some) for some in by_question]
    length = lengths([answer.tokens for answer in given])
    return Sampled(
        samples=each,
        average=clustered([number / each for number in right], each),
        pass_at={k: clustered([pass_at_k(each, number, k) for number in right], each // k) for k in ks},
        majority=clustered([votes.get(problem.question.id, 0.0) for problem in problems]),
        incomplete=_incomplete(given),
        undecided=sum(not answer.decided for answer in given),
        length_mean=length.mean,
        length_median=length.median,
        length_p95=length.p95,
    )


def _majorities(problem_set: ProblemSet, answers: Answers, same: Same) -> dict[str, float]:
    """Question id -> chance that the majority of its sampled answers is right."""
    if problem_set.asked.samples < 2:
        return {}
    found = {}
    for problem in problem_set.problems:
        voting = [answer for answer in _of(problem_set, problem, "sampled", answers) if answer.votes]
        equal = groups([answer.final for answer in voting], same)
        found[problem.question.id] = majority([[voting[position].right for position in group] for group in equal])
    return found


def _of(problem_set: ProblemSet, problem: Problem, way: Way, answers: Answers) -> list[Answer]:
    found = answers.get((problem_set.name, problem.question.id, way))
    return found.answers if found else []


def _share(answers: Sequence[Answer]) -> float:
    return sum(answer.right for answer in answers) / len(answers) if answers else 0.0


def _incomplete(answers: Sequence[Answer]) -> float:
    return sum(not answer.complete for answer in answers) / len(answers) if answers else 0.0


def _parts(problems: Sequence[Problem], label: Callable[[Problem], str | None]) -> dict[str, list[Problem]]:
    """By label, in order; those without one last. Nothing where none has one."""
    parts: dict[str, list[Problem]] = {}
    for problem in problems:
        parts.setdefault(label(problem) or NO_LABEL, []).append(problem)
    return {} if set(parts) <= {NO_LABEL} else dict(sorted(parts.items(), key=lambda part: (part[0] == NO_LABEL, _in_order(part[0]))))


def _in_order(label: str) -> tuple[float, str]:
    """Numbers by their value, before all else."""
    return (float(label), "") if label.replace(".", "", 1).isdecimal() else (float("inf"), label)
