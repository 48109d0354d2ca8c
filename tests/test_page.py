from dataclasses import replace

import pytest

from distil_trainer.errors import CardError
from distil_trainer.page import layer_maps, write_page
from distil_trainer.record import ModelFacts, Record

DISTILLED = Record(
    stage="distill",
    student={"name": "small", "layers": 2, "language": ["sv"]},
    teacher={"name": "large", "layers": 4},
    provenance={"teacher": "large", "teacher_layers": 4, "copied_blocks": [1, 2]},
    alignments=[{"name": "h", "feature": "hidden_states", "student_layer": 2, "teacher_layer": 4, "loss": "mse"}],
    loss_curve={"loss": [[1, 2.0], [2, 1.0]]},
)
TUNED = Record(stage="finetune", seeds=[1])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_page_its_pictures_and_its_records(tmp_path):
    write_page(tmp_path, [DISTILLED, TUNED, Record(stage="adapt"), TUNED])
    assert names(tmp_path) == [
        "README.md", "adapt.json", "distillation.json", "finetune-2.json", "finetune.json", "layer_map.png",
        "loss_curves.png",
    ]  # fmt: skip
    assert Record.load(tmp_path / "distillation.json") == DISTILLED
    text = (tmp_path / "README.md").read_text()
    assert "](layer_map.png)" in text
    assert "](loss_curves.png)" in text


def test_there_is_a_picture_only_of_what_is_known(tmp_path):
    write_page(tmp_path, [Record(stage="distill", student={"name": "small"})])
    assert names(tmp_path) == ["README.md", "distillation.json"]


SEVERAL = Record(
    stage="distill",
    student={"name": "small", "layers": 2},
    teacher={"name": "large", "layers": 4},
    other_teachers=[{"name": "other", "layers": 3}],
    provenance={"teacher": "large", "teacher_layers": 4, "copied_blocks": [1, 2]},
    alignments=[
        {"name": "a", "feature": "hidden_states", "student_layer": 2, "teacher_layer": 4, "loss": "mse", "teacher": 1},
        {"name": "b", "feature": "hidden_states", "student_layer": 1, "teacher_layer": 3, "loss": "mse", "teacher": 2},
        {"name": "c", "feature": "logits", "loss": "kl"},
    ],
)
STACKS = Record(
    stage="distill",
    student={"name": "small", "layers": 2, "decoder_layers": 1},
    teacher={"name": "large", "layers": 4, "decoder_layers": 3},
    provenance={"teacher": "large", "teacher_layers": 4, "copied_blocks": [1, 4], "copied_decoder_blocks": [3]},
    alignments=[
        {"name": "a", "feature": "hidden_states", "student_layer": 1, "teacher_layer": 3, "loss": "mse",
         "stack": "decoder"},
        {"name": "c", "feature": "logits", "loss": "kl"},
    ],
)  # fmt: skip


def drawn(record):
    return [
        (
            m.student,
            m.student_layers,
            m.teacher,
            m.teacher_layers,
            [a.name for a in m.alignments],
            tuple(m.copied_blocks),
        )
        for m in layer_maps(record)
    ]


def test_each_teacher_has_a_layer_map():
    assert drawn(SEVERAL) == [
        ("Student", 2, "Teacher 1", 4, ["a", "c"], (1, 2)),
        ("Student", 2, "Teacher 2", 3, ["b", "c"], ()),
    ]
    assert drawn(DISTILLED) == [("Student", 2, "Teacher", 4, ["h"], (1, 2))]


def test_each_stack_has_a_layer_map(tmp_path):
    assert drawn(STACKS) == [
        ("Student, encoder", 2, "Teacher, encoder", 4, [], (1, 4)),
        ("Student, decoder", 1, "Teacher, decoder", 3, ["a", "c"], (3,)),
    ]
    text = write_page(tmp_path, [STACKS]).read_text()
    assert "| Blocks of the encoder | 4 | 2 |\n| Blocks of the decoder | 3 | 1 |" in text
    assert "1 ← 1, 2 ← 4 (student block ← teacher block). Of the teacher's decoder it had the blocks 1 ← 3." in text


def test_no_layer_map_where_a_depth_is_not_known():
    unknown = replace(STACKS, teacher=ModelFacts(name="large", layers=4))
    assert layer_maps(unknown) == layer_maps(replace(unknown, teacher=None)) == []
    assert layer_maps(replace(DISTILLED, teacher=ModelFacts(name="large", layers=0))) == []
    assert layer_maps(replace(STACKS, student=ModelFacts(name="small", layers=2))) == []  # as earlier records are


def test_text_by_hand_survives(tmp_path):
    page = write_page(tmp_path, [DISTILLED])
    by_hand = page.read_text().replace("<!-- keep: introduction -->", "<!-- keep: introduction -->\nHej *du*.", 1)
    page.write_text(by_hand)
    write_page(tmp_path, [DISTILLED])
    assert page.read_text() == by_hand


def test_a_page_in_another_encoding_is_not_overwritten(tmp_path):
    (tmp_path / "README.md").write_bytes("# Åäö\n".encode("latin-1"))
    with pytest.raises(CardError, match="not UTF-8"):
        write_page(tmp_path, [DISTILLED])
    assert names(tmp_path) == ["README.md"]


@pytest.mark.parametrize(
    ("old_page", "record", "message"),
    [
        ("<!-- keep: notes -->\nmine\n", DISTILLED, "is not closed"),
        ("old\n", Record(stage="distill", student={"name": "small", "license": "my-own"}), "license"),
        ("old\n", Record(stage="distill", student={"name": "small", "language": ["xq"]}), "language"),
    ],
)
def test_nothing_is_written_when_the_page_would_not_do(tmp_path, old_page, record, message):
    (tmp_path / "README.md").write_text(old_page)
    with pytest.raises(CardError, match=message):
        write_page(tmp_path, [record])
    assert names(tmp_path) == ["README.md"]
    assert (tmp_path / "README.md").read_text() == old_page
