"""In which order an answer is reworded: its language, its notation, what stands around the value, the value's words."""

from megatron_oreal.verify.rules.wording.enumerated import with_parts_apart
from megatron_oreal.verify.rules.wording.families import with_conditions
from megatron_oreal.verify.rules.wording.labels import unlabelled
from megatron_oreal.verify.rules.wording.names import with_names_marked
from megatron_oreal.verify.rules.wording.notation import in_latex
from megatron_oreal.verify.rules.wording.numbers import with_numbers_in_figures
from megatron_oreal.verify.rules.wording.remarks import without_remarks
from megatron_oreal.verify.rules.wording.separators import with_points
from megatron_oreal.verify.rules.wording.sets import with_sets_in_symbols


def reworded(text: str, other: str) -> str:
    """A normalised answer as LaTeX for the grammar, beside the other answer, which only decides about a decimal comma."""
    text = unlabelled(without_remarks(with_conditions(in_latex(with_parts_apart(text)))))
    text = with_numbers_in_figures(with_sets_in_symbols(text))
    return with_names_marked(with_points(text, other))
