"""What a student is beside its teacher, as a small table to print before training."""

from transformers import PreTrainedModel

from distil_trainer.facts import model_facts


def student_plan(teacher: PreTrainedModel, student: PreTrainedModel) -> str:
    """Teacher against student: blocks, widths, parameters; then what was copied from where, and what is frozen.

    Sizes that a config does not name are left out. A weight that is tied is counted once, with the embeddings.

    Args:
        teacher: the model that the student was made from.
        student: as from `build_student`; without its provenance (a model of other origin) the table is all.
    """
    columns = []
    for model in (teacher, student):
        facts, config = model_facts(model, name="-"), model.config
        whole, tables, inside = facts.parameters or 0, facts.embedding_parameters or 0, facts.block_parameters or 0
        columns.append(
            {
                "blocks": facts.layers,
                "hidden size": facts.hidden_size,
                "heads": facts.heads,
                "key/value heads": getattr(config, "num_key_value_heads", None),
                "intermediate size": next(
                    (
                        size
                        for name in ("intermediate_size", "hidden_dim", "n_inner", "ffn_dim")
                        if isinstance(size := getattr(config, name, None), int)
                    ),
                    None,
                ),
                "vocabulary": facts.vocabulary,
                "parameters": whole,
                "- embeddings": tables,
                "- blocks": inside,
                "- rest": whole - tables - inside,
            }
        )
    rows = [("", "teacher", "student")]
    rows += [(name, f"{of:,}", f"{columns[1][name]:,}") for name, of in columns[0].items() if of is not None]
    wide = [max(len(row[k]) for row in rows) for k in range(3)]
    table = "\n".join(f"{name:<{wide[0]}}  {of:>{wide[1]}}  {ours:>{wide[2]}}" for name, of, ours in rows)
    provenance = getattr(student, "provenance", None)
    return f"{table}\n{provenance}" if provenance is not None else table
