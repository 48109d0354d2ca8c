import pytest
from conftest import tiny_config, tiny_model
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel, LlamaConfig, LlamaModel

from distil_trainer import Alignment, methods
from distil_trainer.compatibility import check_pair, refuse_data_parallel
from distil_trainer.errors import AlignmentError, TrainingSetupError

LAYERS = methods.lightmbert(student_layers=2, teacher_layers=4)
LOGITS = (Alignment(feature="logits", loss="kl"),)


def test_a_fitting_pair_passes():
    check_pair(BertModel(tiny_config(num_hidden_layers=2)), tiny_model(BertModel), LAYERS)
    check_pair(tiny_model(BertForMaskedLM, num_hidden_layers=2), tiny_model(BertForMaskedLM), LOGITS)


@pytest.mark.parametrize(
    ("student", "alignments", "message"),
    [
        ({"num_hidden_layers": 1}, LAYERS, "the student has 1 blocks, but student_layer=2"),
        (
            {"hidden_size": 16},
            LAYERS,
            "hidden_size of the student is 16, of the teacher 32. Widths must be equal without proj",
        ),
        ({"num_attention_heads": 2}, LAYERS, "num_attention_heads of the student is 2, of the teacher 4"),
        ({"vocab_size": 50}, LAYERS, "vocabulary size of the student is 50, of the teacher 99"),
    ],
)
def test_what_does_not_fit_is_named_with_both_sizes(student, alignments, message):
    model = BertModel(tiny_config(**{"num_hidden_layers": 2} | student))
    with pytest.raises(AlignmentError, match=message):
        check_pair(model, tiny_model(BertModel), alignments)


def test_projected_widths_may_differ():
    narrow = BertModel(tiny_config(num_hidden_layers=2, hidden_size=24))
    projected = Alignment(feature="hidden_states", student_layer=2, teacher_layer=4, projection=True)
    check_pair(narrow, tiny_model(BertModel), [projected])


def relation(feature="query_relation", heads=None):
    return (Alignment(feature=feature, loss="kl", student_layer=2, teacher_layer=4, relation_heads=heads),)


def test_relation_heads_allow_other_widths_and_head_counts():
    narrow = BertModel(tiny_config(num_hidden_layers=2, hidden_size=24, num_attention_heads=2))
    check_pair(narrow, tiny_model(BertModel), relation(heads=8))
    with pytest.raises(AlignmentError, match=r"2, of the teacher 4.*one by one without relation_heads"):
        check_pair(narrow, tiny_model(BertModel), relation())
    with pytest.raises(AlignmentError, match=r"divide the student's width, 2 heads of 12; got 16. Choose a divisor"):
        check_pair(narrow, tiny_model(BertModel), relation(heads=16))
    with pytest.raises(AlignmentError, match=r"divide the teacher's width, 4 heads of 8; got 3. Choose a divisor"):
        check_pair(narrow, tiny_model(BertModel), relation(heads=3))


def test_relations_of_keys_and_values_count_the_heads_that_queries_share():
    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    teacher = LlamaModel(LlamaConfig(**sizes, num_hidden_layers=4, num_key_value_heads=2))
    student = LlamaModel(LlamaConfig(**sizes, num_hidden_layers=2, num_key_value_heads=4))
    check_pair(student, teacher, relation("query_relation"))
    check_pair(student, teacher, relation("value_relation", heads=8))
    with pytest.raises(AlignmentError, match="num_key_value_heads of the student is 4, of the teacher 2"):
        check_pair(student, teacher, relation("value_relation"))
    with pytest.raises(AlignmentError, match="divide the teacher's width, 2 heads of 8; got 32"):
        check_pair(student, teacher, relation("key_relation", heads=32))


def test_a_model_cannot_teach_itself():
    model = tiny_model(BertModel)
    with pytest.raises(AlignmentError, match="the same model"):
        check_pair(model, model, methods.lightmbert(student_layers=4, teacher_layers=4))


def test_logits_need_a_head_of_the_same_size_on_both_sides():
    with pytest.raises(AlignmentError, match="BertModel has no head"):
        check_pair(tiny_model(BertForMaskedLM), tiny_model(BertModel), LOGITS)
    three, two = (tiny_model(BertForSequenceClassification, num_labels=n) for n in (3, 2))
    with pytest.raises(AlignmentError, match="number of logits of the student is 3, of the teacher 2"):
        check_pair(three, two, LOGITS)


def test_one_process_with_several_gpus_is_refused(make_args, monkeypatch):
    args = make_args()
    refuse_data_parallel(args)
    monkeypatch.setattr("transformers.TrainingArguments.n_gpu", 2)
    with pytest.raises(TrainingSetupError, match="2 GPUs are visible but one process runs"):
        refuse_data_parallel(args)
