"""What users ask of a plan besides: what each number of GPUs buys, what costs most, a picture."""

import json
from xml.etree import ElementTree

import pytest

from megatron_oreal.plan import command as plan

ASKED = ("experiment=oreal_7b", "plan.gpus=32")


def answered(capsys, *arguments: str, status: int = 0) -> dict:
    assert plan.main([*ASKED, *arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_each_number_of_gpus_is_planned_as_if_it_had_been_asked_for(capsys):
    found = answered(capsys, "--gpus", "12,32,64")
    wrong, *bought = found["by_gpus"]
    assert "12 are no whole hosts" in wrong["wrong"] and all(one["wrong"] is None for one in bought)
    assert bought[0]["seconds"] == found["step_seconds"]
    assert plan.main(["experiment=oreal_7b", "plan.gpus=64", "rollout.engines=32", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert bought[1]["seconds"] == alone["step_seconds"] and bought[1]["fullest"] == pytest.approx(alone["fullest"], abs=1)
    assert bought[1]["gpu_hours"] == pytest.approx(64 * 90 * alone["step_seconds"] / 3600)


def test_what_costs_most_is_less_with_what_is_advised(capsys):
    found = answered(capsys, "--why")
    seconds = [reason["seconds"] for reason in found["why"]]
    assert len(seconds) == 3 and seconds == sorted(seconds, reverse=True)
    advised = [reason for reason in found["why"] if reason["overrides"]]
    assert advised and advised[0] == found["why"][0]  # the rollout
    for reason in advised:
        changed = answered(capsys, *reason["overrides"])
        assert changed["fits"]
        assert found["step_seconds"] - changed["step_seconds"] == pytest.approx(reason["saved"])


def test_the_picture_is_an_svg_with_every_part(capsys, tmp_path):
    file = tmp_path / "plan.svg"
    found = answered(capsys, "--picture", str(file))
    drawn = "".join(ElementTree.fromstring(file.read_text()).itertext())
    assert all(name.replace("_", " ") in drawn for name in ("optimizer", "activations", *found["step"]) if name != "verify")


@pytest.mark.parametrize(("counts", "message"), [("many", "is no list of numbers"), ("0,8", "at least 1")])
def test_wrong_numbers_of_gpus_are_said(capsys, counts, message):
    assert plan.main([*ASKED, "--gpus", counts]) == 2
    assert message in capsys.readouterr().err
