import pytest

from distil_trainer import Alignment
from distil_trainer.alignment import check_alignments, layer_map
from distil_trainer.errors import AlignmentError

RELATION = {"feature": "value_relation", "loss": "kl", "student_layer": 1, "teacher_layer": 1}


def test_name_counts_blocks_from_one():
    assert Alignment(feature="hidden_states", student_layer=5, teacher_layer=11).name == "hidden_states_s5_t11"
    assert Alignment(feature="logits", loss="kl").name == "logits"
    relation = Alignment(feature="value_relation", loss="kl", student_layer=6, teacher_layer=12)
    assert (relation.name, relation.unit) == ("value_relation_s6_t12", "tokens")


def test_alignment_is_frozen_and_keyword_only():
    alignment = Alignment(feature="hidden_states", student_layer=1, teacher_layer=2)
    with pytest.raises(AttributeError):
        alignment.weight = 2.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        Alignment("hidden_states", 1, 2)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feature": "hidden"}, "feature should be one of hidden_states"),
        ({"feature": "hidden_states", "student_layer": 1, "teacher_layer": 1, "loss": "kl"}, "loss for hidden_states"),
        ({"feature": "hidden_states", "student_layer": 1}, "teacher_layer of hidden_states"),
        ({"feature": "hidden_states", "student_layer": -1, "teacher_layer": 1}, "0 is the embedding output"),
        ({"feature": "attention_probs", "student_layer": 0, "teacher_layer": 1}, "blocks count from 1"),
        ({"feature": "attention_probs", "student_layer": True, "teacher_layer": 1}, "got True"),
        ({"feature": "attention_probs", "student_layer": 1.0, "teacher_layer": 1}, "got 1.0"),
        ({"feature": "logits", "loss": "kl", "student_layer": 1}, "logits belong to no layer"),
        ({"feature": "logits", "loss": "mse", "temperature": 2.0}, "mse on logits has no temperature"),
        ({"feature": "logits", "loss": "kl", "temperature": 0.0}, "temperature should be a positive"),
        ({"feature": "logits", "loss": "kl", "weight": float("nan")}, "weight should be a positive"),
        ({"feature": "logits", "loss": "kl", "weight": "1"}, "weight should be a positive"),
        ({"feature": "logits", "loss": "kl", "positions": "all"}, "positions should be one of tokens, labels, first"),
        (RELATION | {"loss": "mse"}, "loss for value_relation should be 'kl'; got 'mse'"),
        (RELATION | {"student_layer": 0}, "blocks count from 1"),
        (RELATION | {"relation_heads": 0}, "relation_heads should be a whole number from 1, or None; got 0"),
        (RELATION | {"relation_heads": True}, "relation_heads should be a whole number from 1, or None; got True"),
        (
            RELATION | {"feature": "attention_probs", "relation_heads": 2},
            "is for query_relation.*only; attention_probs",
        ),
        (
            {"feature": "hidden_states", "student_layer": 1, "teacher_layer": 1, "temperature": 2.0},
            "temperature is for logits only",
        ),
        (
            {"feature": "hidden_states", "student_layer": 1, "teacher_layer": 1, "positions": "labels"},
            "is for logits only",
        ),
        ({"feature": "logits", "loss": "kl", "positions": "first"}, "'first' is for hidden_states only"),
        (RELATION | {"projection": True}, "projection is for hidden_states only; value_relation got True"),
        (
            {"feature": "hidden_states", "student_layer": 1, "teacher_layer": 1, "projection": 1},
            "projection should be True, False or 'shared'; got 1",
        ),
        (RELATION | {"positions": "first"}, "'first' is for hidden_states only; value_relation counts tokens"),
    ],
)
def test_invalid_combinations_raise_on_construction(fields, message):
    with pytest.raises(AlignmentError, match=message):
        Alignment(**fields)


def test_printed_map_says_who_learns_what_from_whom():
    alignments = (
        Alignment(feature="attention_probs", student_layer=3, teacher_layer=6),
        Alignment(feature="hidden_states", student_layer=0, teacher_layer=0, loss="cosine", weight=10),
        Alignment(feature="hidden_states", student_layer=1, teacher_layer=2, positions="first"),
        Alignment(feature="hidden_states", student_layer=2, teacher_layer=4, projection="shared"),
        Alignment(feature="key_relation", loss="kl", student_layer=3, teacher_layer=6, relation_heads=48),
        Alignment(feature="logits", loss="kl", temperature=2.0),
    )
    assert layer_map(alignments).splitlines() == [
        "student block 3 learns attention from teacher block 6 (mse)",
        "student embeddings learns hidden states from teacher embeddings (cosine, weight 10)",
        "student block 1 learns hidden states from teacher block 2 (mse, first token)",
        "student block 2 learns hidden states from teacher block 4 (mse, shared projection)",
        "student block 3 learns key relations from teacher block 6 (kl, 48 relation heads)",
        "student learns logits from teacher (kl, temperature 2)",
    ]


def test_a_list_is_checked_against_the_depths():
    alignment = Alignment(feature="hidden_states", student_layer=6, teacher_layer=12)
    check_alignments([alignment], student_layers=6, teacher_layers=12)
    with pytest.raises(AlignmentError, match="the teacher has 11 blocks, but teacher_layer=12"):
        check_alignments([alignment], student_layers=6, teacher_layers=11)
    with pytest.raises(AlignmentError, match="two alignments are named 'hidden_states_s6_t12'"):
        check_alignments([alignment, alignment])
    with pytest.raises(AlignmentError, match="got str"):
        check_alignments(["hidden_states"])  # type: ignore[list-item]
