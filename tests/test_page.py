import pytest

from distil_trainer.errors import CardError
from distil_trainer.page import write_page
from distil_trainer.record import Record

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
