"""Every recipe is loaded as it is, and run for two steps with tiny models, through the scripts that users call."""

import json
import shutil

import pytest
import transformers
from conftest import tiny_config, word_tokenizer
from safetensors.torch import load_file, save_file
from tiny_runs import QUIET, ROOT, WORDS, recipes_with, save_model, script, write_lines
from transformers import BertForMaskedLM, BertForPreTraining, BertModel

from distil_trainer import DistillationTrainer, Record
from distil_trainer.errors import DataError, RecipeError
from distil_trainer.recipe import DistillRecipe, load_recipe

pytestmark = pytest.mark.usefixtures("own_datasets_cache")
DISTILL = recipes_with("teacher")
FINETUNE = recipes_with("seeds")


def distill_overrides(path, tmp_path):
    recipe = load_recipe(DistillRecipe, path)
    layers = [a.teacher_layer for a in recipe.alignments if a.teacher_layer]  # logits have none
    depth = max(layers, default=2 * recipe.student.num_hidden_layers)
    model_class = BertForPreTraining if recipe.teacher.model_class == "AutoModelForPreTraining" else BertModel
    teacher = save_model(tmp_path / "teacher", model_class, depth)
    text = write_lines(tmp_path / "text.jsonl", [{"text": " ".join(WORDS[i % 5 : i % 5 + 9])} for i in range(40)])
    data = {"files": [str(text)], "validation": [str(text)], "max_length": 16, "group": recipe.data.group}
    return [
        f"teacher.name={teacher}",
        f"data={json.dumps({**data, 'mlm_probability': recipe.data.mlm_probability, 'name': 'text'})}",
        f"output_dir={tmp_path / 'student'}",
        "training.max_steps=2",
        "training.logging_steps=1",
        *QUIET,
    ]


@pytest.mark.parametrize("path", DISTILL, ids=lambda path: str(path.relative_to(ROOT)))
def test_distill_recipes_run(path, tmp_path, capsys):
    script("distill").main(str(path), distill_overrides(path, tmp_path))
    recipe, folder = load_recipe(DistillRecipe, path), tmp_path / "student"
    record = Record.load(folder / "distillation.json")
    assert record.student.layers == recipe.student.num_hidden_layers
    assert record.steps == 2
    assert record.tokens > 0
    assert {f"loss/{alignment.name}" for alignment in record.alignments} <= set(record.loss_curve)
    assert recipe.student.name in (folder / "README.md").read_text()
    assert (folder / "loss_curves.png").stat().st_size > 0
    assert not (folder / "training_args.bin").exists()
    assert str(tmp_path) not in (folder / "README.md").read_text() + (folder / "distillation.json").read_text()
    model_class = getattr(transformers, record.student.class_name)
    model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.num_hidden_layers == recipe.student.num_hidden_layers
    source = {"bottom": 3, "spread": 3 * record.teacher.layers // record.student.layers}[recipe.student.layers]
    assert f"student block 3 <- teacher block {source}" in capsys.readouterr().out
    undistilled = folder / "undistilled" / "model.safetensors"
    assert undistilled.exists() == recipe.save_undistilled
    if undistilled.exists():  # every weight is there, and it has not learned
        before, after = load_file(undistilled), load_file(folder / "model.safetensors")
        assert before.keys() == after.keys()
        assert any(not before[name].equal(after[name]) for name in before)


def test_a_method_with_options_runs_and_is_cited(tmp_path, capsys):
    path = ROOT / "recipes" / "quickstart" / "distill.yaml"
    options = ["method=minilmv2", "method_options={relation_heads: 8}"]
    script("distill").main(str(path), [*distill_overrides(path, tmp_path), *options])
    record = Record.load(tmp_path / "student" / "distillation.json")
    assert (record.method, record.task_weight) == ("minilmv2", 0.0)
    assert [(a.name, a.relation_heads) for a in record.alignments] == [
        (f"{part}_relation_s3_t6", 8) for part in ("query", "key", "value")
    ]
    card = (tmp_path / "student" / "README.md").read_text()
    assert "`kl`: mean over heads of KL(softmax(TTᵀ/√d) ‖ softmax(SSᵀ/√d)), 8 relation heads |" in card
    assert "eprint = {2012.15828}" in card
    assert "learns value relations from teacher block 6 (kl, 8 relation heads)" in capsys.readouterr().out


def test_the_reference_pairing_is_a_list_in_its_recipe():
    recipe = load_recipe(DistillRecipe, ROOT / "recipes" / "swedish_mbert" / "as_published.yaml")
    assert [a.name for a in recipe.alignments] == ["hidden_states_s5_t11", "attention_probs_s6_t12"]


def test_checkpoints_are_gone_on_from_only_when_asked(tmp_path):
    path = ROOT / "recipes" / "quickstart" / "distill.yaml"
    overrides = [*distill_overrides(path, tmp_path), "training.save_strategy=steps", "training.save_steps=1"]
    distill = script("distill")
    distill.main(str(path), overrides)
    with pytest.raises(RecipeError, match="resume=true"):
        distill.main(str(path), overrides)
    changes = ["resume=true", "training.max_steps=3", "save_undistilled=true"]
    distill.main(str(path), [*overrides, *changes])
    assert Record.load(tmp_path / "student" / "distillation.json").steps == 3
    before = load_file(tmp_path / "student" / "undistilled" / "model.safetensors")
    teacher = load_file(tmp_path / "teacher" / "model.safetensors")
    (name,) = (name for name in before if name.endswith("encoder.layer.0.output.dense.weight"))
    assert before[name].equal(teacher[name.removeprefix("bert.")])


def test_blocks_chosen_by_importance(tmp_path, capsys):
    """A block that hands on what it is given is the first to go."""
    path = ROOT / "recipes" / "quickstart" / "distill.yaml"
    overrides = [*distill_overrides(path, tmp_path), "student.layers=importance", "student.num_hidden_layers=5"]
    teacher = load_file(tmp_path / "teacher" / "model.safetensors")
    for name in teacher:
        if "layer.2." in name and "output.dense" in name:
            teacher[name].zero_()
    save_file(teacher, tmp_path / "teacher" / "model.safetensors", metadata={"format": "pt"})
    alignment = {"feature": "hidden_states", "student_layer": 5, "teacher_layer": 6}
    script("distill").main(str(path), [*overrides, "method=null", f"alignments={json.dumps([alignment])}"])
    record = Record.load(tmp_path / "student" / "distillation.json")
    assert record.provenance.copied_blocks == (1, 2, 4, 5, 6)
    trimmed = ["student.vocabulary={coverage: 0.9}", f"output_dir={tmp_path / 'trimmed'}"]
    script("distill").main(str(path), [*overrides, "method=null", f"alignments={json.dumps([alignment])}", *trimmed])
    record = Record.load(tmp_path / "trimmed" / "distillation.json")
    assert record.provenance.copied_blocks == (1, 2, 4, 5, 6)
    assert record.provenance.kept_pieces < record.provenance.teacher_pieces
    assert "student block 3 <- teacher block 4" in capsys.readouterr().out


def test_a_narrower_student(tmp_path, capsys):
    """What is cut is chosen on the text; relations and logits teach across widths."""
    path = ROOT / "recipes" / "quickstart" / "distill.yaml"
    overrides = [
        *distill_overrides(path, tmp_path),
        "method=minilmv2",
        "method_options={teacher_layer: 6, relation_heads: 4}",
        "student.num_hidden_layers=3",
        "student.hidden_size=16",
        "student.num_attention_heads=2",
        "student.intermediate_size=24",
        "student.freeze_embeddings=false",
    ]
    script("distill").main(str(path), overrides)
    record, out = Record.load(tmp_path / "student" / "distillation.json"), capsys.readouterr().out
    kept = {"hidden size": (16, 32), "heads": (2, 4), "intermediate size": (24, 48)}
    assert record.provenance.kept_units == kept
    assert "hidden size             32       16" in out
    assert "16 of 32 (hidden size)" in (tmp_path / "student" / "README.md").read_text()
    random = [*overrides, "student.init=random", "student.layers=bottom", f"output_dir={tmp_path / 'random'}"]
    script("distill").main(str(path), random)
    record = Record.load(tmp_path / "random" / "distillation.json")
    assert (record.provenance.copied_blocks, record.student.hidden_size) == ((), 16)
    assert "No block of the student was copied" in (tmp_path / "random" / "README.md").read_text()


def test_both_models_compute_attention_as_the_recipe_says(tmp_path, monkeypatch):
    path = ROOT / "recipes" / "quickstart" / "distill.yaml"
    found, train = [], DistillationTrainer.train

    def watched(trainer, **kwargs):
        found.extend(model.config._attn_implementation for model in (trainer.model, trainer.teacher.model))
        return train(trainer, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "train", watched)
    script("distill").main(str(path), [*distill_overrides(path, tmp_path), "teacher.attn_implementation=eager"])
    assert found == ["eager", "eager"]


def test_several_teachers(tmp_path, capsys):
    path = ROOT / "recipes" / "quickstart" / "distill.yaml"
    overrides = [*distill_overrides(path, tmp_path), "method=lightmbert", "teacher_weights=[3, 1]"]
    overrides.append(f"other_teachers=[{{name: {save_model(tmp_path / 'other', blocks=4)}, title: Other}}]")
    script("distill").main(str(path), overrides)
    record = Record.load(tmp_path / "student" / "distillation.json")
    assert [(a.name, a.weight) for a in record.alignments][::2] == [
        ("hidden_states_s3_t6_teacher1", 0.75),
        ("hidden_states_s3_t4_teacher2", 0.25),
    ]
    assert [(teacher.name, teacher.layers) for teacher in record.other_teachers] == [("Other", 4)]
    assert "student block 3 learns attention from teacher 2: block 4 (mse, weight 0.25)" in capsys.readouterr().out


def test_a_teacher_cache(tmp_path):
    path = ROOT / "recipes" / "quickstart" / "distill.yaml"
    cache = [f"teacher_cache={{folder: {tmp_path / 'kept'}, dtype: float32}}"]
    script("distill").main(str(path), [*distill_overrides(path, tmp_path), *cache])
    record = Record.load(tmp_path / "student" / "distillation.json")
    assert (record.teacher_cache, record.top_logits) == ("float32", None)
    assert "computed once, and kept in `float32`." in (tmp_path / "student" / "README.md").read_text()
    assert list((tmp_path / "kept").glob("shard-*.safetensors"))
    for others, message in (
        (["teacher_cache.dtype=int8"], "teacher_cache.dtype: expected one of float32, bfloat16, float16"),
        (["teacher_cache.top_k=0"], "top_k should be a whole number from 1, or None; got 0"),
    ):
        with pytest.raises(RecipeError, match=message):
            script("distill").main(str(path), [*distill_overrides(path, tmp_path), *cache, *others])


def test_teachers_with_other_pieces_are_refused(tmp_path):
    path = ROOT / "recipes" / "quickstart" / "distill.yaml"
    save_model(tmp_path / "other", blocks=4)
    word_tokenizer(WORDS[::-1]).save_pretrained(tmp_path / "other")
    overrides = [
        *distill_overrides(path, tmp_path),
        "method=lightmbert",
        f"other_teachers=[{{name: {tmp_path / 'other'}}}]",
    ]
    with pytest.raises(RecipeError, match=r"other_teachers\[0\]: expected the vocabulary of .*teacher, because all"):
        script("distill").main(str(path), overrides)


def test_missing_text_is_named(tmp_path):
    path = ROOT / "recipes" / "quickstart" / "distill.yaml"
    with pytest.raises(DataError, match="no file matches nothing/"):
        script("distill").main(str(path), [*distill_overrides(path, tmp_path), "data.files=['nothing/*.txt']"])


def test_a_student_in_a_smaller_vocabulary(tmp_path, capsys):
    path = ROOT / "recipes" / "quickstart" / "distill.yaml"
    logits = {"feature": "logits", "loss": "kl"}
    words = [
        *distill_overrides(path, tmp_path),
        "teacher.model_class=AutoModelForMaskedLM",
        "method=null",
        f"alignments=[{json.dumps(logits)}]",
        "data.mlm_probability=0.5",
        "student.vocabulary.coverage=0.7",
        "student.vocabulary.texts=30",
        "save_undistilled=true",
    ]
    save_model(tmp_path / "teacher", BertForMaskedLM, 6)
    script("distill").main(str(path), words)
    out, folder = capsys.readouterr().out, tmp_path / "student"
    record = Record.load(folder / "distillation.json")
    kept = record.provenance.kept_pieces
    assert 5 < kept < len(WORDS) + 5
    assert f"{kept} of {len(WORDS) + 5} pieces are kept" in out
    assert f"vocabulary: {kept} of the teacher's 99 pieces" in out
    assert (record.student.vocabulary, record.teacher.vocabulary, record.provenance.teacher_pieces) == (kept, 99, 99)
    assert f"Its vocabulary holds {kept} of the teacher's 99 pieces" in (folder / "README.md").read_text()
    for place in (folder, folder / "undistilled"):
        model = transformers.AutoModelForMaskedLM.from_pretrained(place)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        assert len(tokenizer) == model.config.vocab_size == kept
        assert tokenizer.unk_token_id in tokenizer(" ".join(WORDS))["input_ids"]
        assert model(**tokenizer(WORDS[0], return_tensors="pt")).logits.shape[-1] == kept
    rows = load_file(folder / "undistilled" / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    teacher = load_file(tmp_path / "teacher" / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    old = transformers.AutoTokenizer.from_pretrained(tmp_path / "teacher").get_vocab()
    assert all(rows[number].equal(teacher[old[piece]]) for piece, number in tokenizer.get_vocab().items())


def test_text_that_was_prepared_in_a_smaller_vocabulary(tmp_path):
    path = ROOT / "recipes" / "swedish_mbert" / "as_published.yaml"
    words = distill_overrides(path, tmp_path)
    longer = tiny_config(num_hidden_layers=12, max_position_embeddings=128)  # as long as rows may be
    BertForPreTraining(longer).save_pretrained(tmp_path / "teacher")
    corpus = tmp_path / "corpus.yaml"
    data = {"files": [str(tmp_path / "text.jsonl")], "max_length": 16, "group": True}
    made = {"tokenizer": str(tmp_path / "teacher"), "data": data, "output_dir": str(tmp_path / "corpus")}
    corpus.write_text(json.dumps(made | {"vocabulary": {"min_count": 20}}))
    prepare = script("prepare")
    prepare.main(str(corpus), [])
    prepare.main(str(corpus), [])  # it is there already
    words[1] = f"data={json.dumps({'prepared': made['output_dir'], 'mlm_probability': 0.15})}"
    with pytest.raises(DataError, match=r"expected the tokenizer that .* was prepared with"):
        script("distill").main(str(path), words)
    with pytest.raises(RecipeError, match=r"vocabulary\.prepared: expected true with data\.prepared; came False"):
        script("distill").main(str(path), [*words, "student.vocabulary.coverage=0.9"])
    script("distill").main(str(path), [*words, "student.vocabulary.prepared=true"])
    record = Record.load(tmp_path / "student" / "distillation.json")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "student")
    assert 5 < record.provenance.kept_pieces == len(tokenizer) < len(WORDS) + 5


def test_a_distillation_that_goes_on_ends_with_the_same_weights(tmp_path):
    path = ROOT / "recipes" / "swedish_mbert" / "as_published.yaml"
    words = [*distill_overrides(path, tmp_path), "training.save_steps=2", "training.max_steps=4"]
    distill, folder = script("distill"), tmp_path / "student"
    distill.main(str(path), words)
    ends = load_file(folder / "model.safetensors")
    shutil.rmtree(folder / "checkpoint-4")
    distill.main(str(path), [*words, "resume=true"])
    found = load_file(folder / "model.safetensors")
    assert all(found[name].equal(ends[name]) for name in ends)
