import re

import pytest
from card_records import distilled, evaluation, metadata, tuned

from distil_trainer.card import render_card
from distil_trainer.errors import RecordError
from distil_trainer.metadata import check_metadata


def summary(*evaluations, **changes):
    card = render_card(distilled(teacher=None, speed={}), tuned(evaluations=evaluations, **changes))
    return re.findall(r"keeps ([\d.]+%)", card)


def test_retention_compares_only_what_can_be_compared():
    teacher, student = evaluation("teacher", {1: 0.8}), evaluation("student", {1: 0.6})
    assert summary(teacher, student) == ["75.0%"]
    assert summary(teacher, evaluation("student", {2: 0.6})) == []
    assert summary(teacher, evaluation("student", {1: 0.6}, dataset_split="validation")) == []
    assert summary(evaluation("teacher", {1: 0.0}), student) == []
    worse = [evaluation(role, {1: 0.5}, higher_is_better=False) for role in ("teacher", "student")]
    assert summary(*worse) == []
    assert summary(*(evaluation(r, {}, value=v) for r, v in (("teacher", 0.866), ("student", 0.859)))) == ["99.2%"]


def test_runs_are_joined_by_seed_and_kept_apart_by_settings():
    runs = [
        tuned(
            evaluations=[evaluation(role, {seed: score})],
            hyperparameters={
                "learning_rate": rate,
                "seed": seed,
                "logging_steps": seed,
                "dataloader_num_workers": seed,
            },
        )
        for role, seed, score, rate in [
            ("teacher", 1, 0.5, 1.0),
            ("teacher", 2, 0.5, 1.0),
            ("student", 1, 0.25, 1.0),
            ("student", 2, 0.5, 1.0),
            ("student", 3, 1.0, 2.0),
        ]
    ]
    lines = [line for line in render_card(distilled(), *runs).split("\n") if line.startswith("| [SUCX")]
    assert [line.split(" | F1 ")[1] for line in lines] == [
        "| 0.500 ± 0.000 | 0.375 ± 0.177 | -0.125 | 75.0% | 1, 2 |",
        "|  | 1.000 |  |  | 3 |",
    ]
    clash = tuned(evaluations=[evaluation("teacher", {1: 0.75})], hyperparameters={"learning_rate": 1.0})
    with pytest.raises(RecordError, match=r"different f1 of the teacher on SUCX 3\.0"):
        render_card(distilled(), *runs, clash)


def test_rows_that_differ_by_their_fine_tuning_alone_say_so():
    both = [evaluation("teacher", {1: 0.5}), evaluation("student", {1: 0.4})]
    runs = [tuned(evaluations=both, hyperparameters={"learning_rate": rate, "bf16": True}) for rate in (0.1, 0.2)]
    card = render_card(distilled(), *runs)
    assert "`test` (learning\\_rate 0.1) | F1" in card
    assert "on SUCX 3.0 (learning\\_rate 0.2)" in card
    assert "fine-tuned, on the data named below" in card
    assert "fine-tuned alike" in render_card(distilled(), runs[0])
    assert len([r for i in metadata(card)["model-index"] for r in i["results"]]) == 1
    check_metadata(card)


def test_a_retention_below_nothing_stays_visible():
    scores = [evaluation("teacher", {1: 0.5}), evaluation("student", {1: -0.1})]
    assert "keeps -20.0% of" in render_card(distilled(), tuned(evaluations=scores))


def test_more_than_three_retentions_are_a_range():
    scores = [
        evaluation(r, {1: v}, dataset_name=str(n))
        for n in range(4)
        for r, v in (("teacher", 1), ("student", 0.9 + n / 100))
    ]
    assert "keeps 90.0% to 93.0% of the teacher's scores" in render_card(
        tuned(student={"name": "x"}, evaluations=scores)
    )


def test_rows_that_differ_by_the_data_of_their_fine_tuning_are_not_compared():
    def of(name, *roles):
        scores = [evaluation(role, {1: score}, dataset_name="Åter") for role, score in roles]
        data = [{"name": name, "role": "train", "config": "en", "split": "train", "examples": 2000}]
        return tuned(data=data, evaluations=scores)

    other, own = (of(name, ("teacher", score), ("student", 0.4)) for name, score in (("Other", 0.5), ("Åter", 0.8)))
    card = render_card(distilled(), own, other)
    assert re.findall(r"`test` \((.*?)\) \| F1 .* (\S+%)", card) == [
        ("fine-tuned on Åter en train (2,000)", "50.0%"),
        ("fine-tuned on Other en train (2,000)", "80.0%"),
    ]
    assert summary(*own.evaluations, data=own.data) == ["50.0%"]
    assert "(fine-tuned on" not in render_card(distilled(), own)
    assert "`test` (fine-tuned on Other en train (2,000)) | F1" in render_card(distilled(), other)
    apart = render_card(distilled(), of("Åter", ("teacher", 0.5)), of("Other", ("student", 0.4)))
    assert "keeps" not in apart
    check_metadata(card)
