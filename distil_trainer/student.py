"""The student: the teacher's architecture with fewer blocks, or narrower ones, its weights copied from the teacher."""

import copy
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from distil_trainer.blocks import STACKS, blocks, depth, has_two_stacks
from distil_trainer.errors import CaptureError, StudentError
from distil_trainer.slicing import Cut, slicer
from distil_trainer.width import Units
from distil_trainer.word_tables import check_positions, config_of_kept, fill, fits, tensors

Model = TypeVar("Model", bound=PreTrainedModel)

# Settings with one entry a block (ModernBERT, Gemma, ...): they are cut together with the blocks.
_PER_BLOCK = ("layer_types", "mlp_layer_types")

# What configs call the intermediate size where that is not its name, and transformers does not map it.
_INTERMEDIATE_SIZE = ("hidden_dim", "n_inner", "ffn_dim", "ffn_hidden_size")

_UNITS = {"hidden": "hidden size", "heads": "heads", "groups": "key/value heads", "neurons": "intermediate size"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a student's weights came from. `str()` of it is the plan, a line a block.

    Attributes:
        teacher: the teacher's Hub id, or the last folder name of a local path; `""` for a model made from a config.
        revision: the teacher's commit on the Hub, if its config knows it. transformers 5.23 no longer keeps it there:
            whoever loaded the teacher knows it, and can add it with `dataclasses.replace`.
        teacher_layers: blocks of the teacher.
        copied_blocks: for each student block the teacher block (one-based) that it was copied from.
        copied_decoder_blocks: the same of the decoder, where the model has one behind an encoder.
        frozen: the modules whose parameters were frozen, as named in the base model.
        kept_pieces: of the teacher's vocabulary; None for all of them.
        teacher_pieces: rows of the teacher's word table, where not all were kept.
        kept_units: of a narrower student: what was cut -> how many were kept, of how many of the teacher's (heads and
            neurons in each block).
        units_chosen_by: how they were chosen.
    """

    teacher: str
    revision: str | None
    teacher_layers: int
    copied_blocks: tuple[int, ...]
    frozen: tuple[str, ...]
    kept_pieces: int | None = None
    teacher_pieces: int | None = None
    kept_units: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict, hash=False)
    units_chosen_by: str | None = None
    copied_decoder_blocks: tuple[int, ...] = ()

    def __str__(self) -> str:
        lines = [f"student block {k} <- teacher block {source}" for k, source in enumerate(self.copied_blocks, start=1)]
        decoder = enumerate(self.copied_decoder_blocks, start=1)
        lines += [f"student decoder block {k} <- teacher decoder block {source}" for k, source in decoder]
        lines = lines or ["student <- random weights"]
        for name, (kept, of) in self.kept_units.items():
            lines.append(f"{name}: {kept:,} of the teacher's {of:,}, chosen by {self.units_chosen_by}")
        if self.kept_pieces is not None:
            lines.append(f"vocabulary: {self.kept_pieces:,} of the teacher's {self.teacher_pieces:,} pieces")
        return "\n".join(lines + [f"frozen: {name}" for name in self.frozen])


def student_config(
    teacher_config: PretrainedConfig, *, num_hidden_layers: int, **overrides: object
) -> PretrainedConfig:
    """The teacher's config with another depth, and other widths if they are given. The teacher's own is not touched.

    The attention implementation carries on; the teacher's name, path and commit do not: the student is a new model.
    Of an encoder-decoder that is the depth of the encoder; that of the decoder is an override by the config's own name
    for it (`num_decoder_layers=2` for T5, `decoder_layers=2` for BART and Whisper), and stays as it is otherwise.
    Per-block settings (`layer_types`) keep their first `num_hidden_layers` entries unless they are given.

    Args:
        teacher_config: the config to start from.
        num_hidden_layers: blocks of the student, from 1 to the teacher's.
        overrides: other attributes of the config, by either of their names (`hidden_size` or DistilBERT's `dim`). A
            narrower student has another `hidden_size`, `num_attention_heads` (with `num_key_value_heads` where there
            are such) or `intermediate_size`. A student that is cut out of its teacher needs heads as wide as the
            teacher's: half the hidden size, half the heads.

    Raises:
        StudentError: the depth is out of range, an override is unknown or invalid, or the width is no multiple of
            the heads.
    """
    if not isinstance(teacher_config, PretrainedConfig):
        raise StudentError(
            f"teacher_config should be a transformers config; got {type(teacher_config).__name__}. Pass teacher.config."
        )
    config = copy.deepcopy(teacher_config)
    deepest = getattr(config, "num_hidden_layers", None)
    if not isinstance(deepest, int):
        raise StudentError(f"{type(config).__name__} has no num_hidden_layers, so its depth cannot be changed.")
    if isinstance(num_hidden_layers, bool) or not isinstance(num_hidden_layers, int):
        raise StudentError(f"num_hidden_layers should be a whole number; got {num_hidden_layers!r}.")
    if not 1 <= num_hidden_layers <= deepest:
        raise StudentError(
            f"num_hidden_layers should be from 1 to the teacher's {deepest}; got {num_hidden_layers}. "
            "A student is at most as deep as its teacher."
        )
    if "intermediate_size" in overrides and not hasattr(config, "intermediate_size"):
        own = next((name for name in _INTERMEDIATE_SIZE if hasattr(config, name)), "intermediate_size")
        overrides = {own if name == "intermediate_size" else name: value for name, value in overrides.items()}
    _check_names(config, overrides)
    per_block: dict[str, object] = {
        name: list(values[:num_hidden_layers])
        for name in _PER_BLOCK
        if isinstance(values := getattr(config, name, None), list | tuple)
    }
    config.name_or_path = ""
    vars(config).pop("_commit_hash", None)
    try:
        for name, value in {"num_hidden_layers": num_hidden_layers, **per_block, **overrides}.items():
            setattr(config, name, value)
        config.validate()
    except StrictDataclassError as error:
        raise StudentError(f"{type(config).__name__} refuses this: {error}") from error
    _check_heads(config)
    return config


def build_student(
    teacher: Model,
    config: PretrainedConfig,
    layers: str | Sequence[int] | Mapping[str, str | Sequence[int]] = "bottom",
    *,
    freeze_embeddings: bool = False,
    dropout: float | None = 0.0,
    kept_ids: Sequence[int] | None = None,
    units: Units | None = None,
    init: Literal["copy", "random"] = "copy",
) -> Model:
    """A student of the teacher's class with chosen blocks of it; embeddings, pooler and heads are copied as they are.

    With `units` it is narrower, and has of every weight the rows and columns of these units. Unless `init="random"`
    nothing is initialised at random and the random state is left alone. The student shares no memory with the teacher,
    has its dtypes and devices, keeps weights tied that the config ties, and is in `eval()` mode like a model from
    `from_pretrained` (the Trainer switches to training mode). Parameters that are frozen in the teacher are not frozen
    in the student. `student.provenance` says what was copied.

    Args:
        teacher: any transformers model with one stack of blocks, or an encoder and a decoder: a base model or one
            with a head.
        config: as from `student_config`; in what shapes the weights only the depth may differ, and with `units` the
            widths. With `init="random"` anything may.
        layers: which teacher blocks, counted from 1, become student blocks 1..n: `"bottom"` the first n, `"top"` the
            last n, `"spread"` block round(i * L / n) for i = 1..n (TinyBERT's map; of 12 to 6: 2, 4, .., 12), or a
            list of n different blocks in the order wanted. For an encoder-decoder the same for both stacks, or
            `{"encoder": ..., "decoder": ...}`.
        freeze_embeddings: freeze the embedding module (in BERT: word, position and type tables and their LayerNorm).
            An output layer that is tied to the word table is frozen with it.
        dropout: every dropout probability of this student while it is distilled (each numeric `*dropout*` of the
            config); None leaves the config's. Dropout is noise in what the student is asked to match, and costs time.
            The student's config keeps its values, so the student that is loaded again for fine-tuning has dropout as
            its teacher had. (The few architectures that read the config at every step, such as Falcon, go on by it.)
        kept_ids: the teacher's ids of the pieces that the student keeps, ascending, as
            `vocabulary.trim_vocabulary` gives them: its word table, and what is as long as the vocabulary in its head,
            have these rows only, and its config the new ids of special tokens. None keeps all.
        units: what of the teacher's width the student keeps, as `width.important_units(teacher, batches, config)`
            chooses it. The scales of norms over the hidden size are made larger by the square root of teacher's over
            student's, so that what reads them gets as much as before.
        init: "random" draws all weights, embeddings too, as the config says, from the random state of the caller;
            `layers` is left at its default then.

    Raises:
        StudentError: the arguments do not fit together. It is raised before any weight is copied.
    """
    if not isinstance(teacher, PreTrainedModel):
        raise StudentError(
            f"teacher should be a transformers PreTrainedModel; got {type(teacher).__name__}. Load it with "
            "AutoModel.from_pretrained, and pass the model itself, not a wrapper of it."
        )
    if type(config) is not type(teacher.config):
        raise StudentError(
            f"config should be a {type(teacher.config).__name__} like the teacher's; got {type(config).__name__}. "
            "Make it with student_config(teacher.config, num_hidden_layers=...)."
        )
    try:
        stacks = _stacks(teacher)
    except CaptureError as error:
        raise StudentError(f"The teacher's blocks cannot be copied. {error}") from error
    if init not in ("copy", "random"):
        raise StudentError(f"init should be 'copy' or 'random'; got {init!r}.")
    if init == "random" and (units is not None or layers != "bottom" or freeze_embeddings):
        raise StudentError(
            "a student with random weights takes nothing from the teacher's blocks and units, and has to learn its "
            "embeddings: leave layers, units and freeze_embeddings at their defaults, or take init='copy'."
        )
    chosen: dict[str | None, tuple[int, ...]] = dict.fromkeys(stacks, ())
    if init == "copy":
        rules = _rules(layers, stacks)
        for stack, members in stacks.items():
            layers_of_student = depth(config, stack) or 0
            chosen[stack] = _choose(rules[stack], student_layers=layers_of_student, teacher_layers=len(members))
        _check_same_shape(teacher.config, config, next(iter(chosen.values())), cut=units is not None)
    first, *others = chosen.values()
    cut: Cut | None = None
    kept_units: dict[str, tuple[int, int]] = {}
    if units is not None:
        cut, has, wanted = slicer(teacher, config, units)
        pairs = {name: (getattr(wanted, name), of) for name, of in vars(has).items()}
        if has.heads == has.groups:
            del pairs["groups"]  # they go with the heads
        kept_units = {_UNITS[name]: (kept, of) for name, (kept, of) in pairs.items() if kept < of}

    # a model writes to its config; the caller's stays as it is
    config = copy.deepcopy(config) if kept_ids is None else config_of_kept(config, kept_ids)
    config.dtype = teacher.dtype
    # On "meta" there are shapes but no storage: no memory, no random numbers, and everything can be checked first.
    with torch.device("meta" if init == "copy" else "cpu"), _dropout_set(config, dropout):
        student = type(teacher)(config)
    sources = _sources(student, teacher, chosen, kept_ids, cut) if init == "copy" else None
    if kept_ids is not None:
        check_positions(student, teacher)
    frozen = _embeddings(student) if freeze_embeddings else {}

    if sources is None:
        nn.Module.to(student, device=teacher.device, dtype=teacher.dtype)
    else:
        fill(student, sources, kept_ids)
    for module in frozen.values():
        module.requires_grad_(False)
    student.eval()
    student.provenance = Provenance(  # type: ignore[assignment]  # a plain attribute, no module
        teacher=_public_name(teacher.name_or_path or ""),
        revision=getattr(teacher.config, "_commit_hash", None),
        teacher_layers=len(next(iter(stacks.values()))),
        copied_blocks=first,
        copied_decoder_blocks=others[0] if others else (),
        frozen=tuple(frozen),
        kept_pieces=None if kept_ids is None else len(kept_ids),
        teacher_pieces=None if kept_ids is None else teacher.config.vocab_size,
        kept_units=kept_units,
        units_chosen_by=units.chosen_by if units is not None and kept_units else None,
    )
    return student


@contextmanager
def _dropout_set(config: PretrainedConfig, dropout: float | None) -> Iterator[None]:
    """Inside this context each dropout probability of `config` is `dropout`, unless that is None."""
    if dropout is not None and (
        isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1
    ):
        raise StudentError(f"dropout should be a number from 0 to below 1, or None; got {dropout!r}.")
    own = {
        name: value
        for name, value in vars(config).items()
        if dropout is not None and "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool)
    }
    for name in own:
        setattr(config, name, float(dropout or 0))
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(config, name, value)


def _check_names(config: PretrainedConfig, overrides: dict[str, object]) -> None:
    known = {name for name in vars(config) if not name.startswith("_")} | set(config.attribute_map) | {"num_labels"}
    for name in overrides:
        if name == config.attribute_map.get("num_hidden_layers"):
            raise StudentError(f"{name} is the depth: give it once, as num_hidden_layers.")
        if name not in known:
            near = get_close_matches(name, sorted(known), n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise StudentError(f"{type(config).__name__} has no attribute {name!r}.{hint}")


def _check_heads(config: PretrainedConfig) -> None:
    width, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    if not isinstance(width, int) or not isinstance(heads, int) or getattr(config, "head_dim", None) is not None:
        return
    if heads < 1 or width % heads:
        raise StudentError(
            f"num_attention_heads should divide hidden_size ({width}); got {heads}. Leave both as in the teacher, or "
            "change them in proportion."
        )


def _stacks(model: PreTrainedModel) -> dict[str | None, nn.ModuleList]:
    return {stack: blocks(model, stack) for stack in (STACKS if has_two_stacks(model) else (None,))}


def _rules(layers: Any, stacks: Mapping[str | None, object]) -> dict[str | None, Any]:
    """Which blocks, by stack."""
    if not isinstance(layers, Mapping):
        return dict.fromkeys(stacks, layers)
    if set(layers) != set(stacks):
        raise StudentError(
            "layers may be a dict of 'encoder' and 'decoder' for a model that has both, and for no other; got one of "
            f"{', '.join(map(repr, layers))}."
        )
    return dict(layers)


def _choose(layers: str | Sequence[int], *, student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """The teacher blocks to copy, one-based, in the student's order."""
    if not 1 <= student_layers <= teacher_layers:
        raise StudentError(
            f"The depth in the config should be from 1 to the teacher's {teacher_layers}; got {student_layers}."
        )
    if isinstance(layers, str):
        named = {
            "bottom": range(1, student_layers + 1),
            "top": range(teacher_layers - student_layers + 1, teacher_layers + 1),
            "spread": [round(i * teacher_layers / student_layers) for i in range(1, student_layers + 1)],
        }
        if layers not in named:
            raise StudentError(
                f"layers should be one of {', '.join(named)}, or a list of the teacher's blocks; got {layers!r}."
            )
        return tuple(named[layers])
    chosen = tuple(layers)
    if len(chosen) != student_layers:
        raise StudentError(
            f"layers should name {student_layers} teacher blocks, one for each student block; got {len(chosen)}: "
            f"{list(chosen)}."
        )
    for block in chosen:
        if isinstance(block, bool) or not isinstance(block, int) or not 1 <= block <= teacher_layers:
            raise StudentError(
                f"layers should hold numbers from 1 to {teacher_layers}; got {block!r}. Blocks are counted from one: "
                f"1 is the block after the embeddings, {teacher_layers} the last."
            )
    repeated = sorted({block for block in chosen if chosen.count(block) > 1})
    if repeated:
        raise StudentError(f"layers should name each teacher block at most once; repeated: {repeated}.")
    return chosen


def _check_same_shape(
    teacher: PretrainedConfig, student: PretrainedConfig, chosen: tuple[int, ...], *, cut: bool
) -> None:
    """Refuses what can be seen in the configs alone; the shapes themselves are compared in `_sources`."""
    _check_heads(student)
    # Another number of heads leaves every shape as it is and changes what the weights mean.
    sizes: tuple[str, ...] = ("head_dim", "vocab_size")
    if not cut:
        sizes += ("num_attention_heads", "decoder_attention_heads", "num_key_value_heads")
    if any(getattr(teacher, name, None) != getattr(student, name, None) for name in sizes):
        raise StudentError(_only_depth(teacher, student))
    for name in _PER_BLOCK:
        kinds, wanted = getattr(student, name, None), getattr(teacher, name, None)
        if not kinds or not wanted:
            continue
        wanted = [wanted[block - 1] for block in chosen]
        if list(kinds) != wanted:
            raise StudentError(
                f"config.{name} should be that of the copied blocks, {wanted}; got {list(kinds)}. "
                f"Give it: student_config(..., {name}=[...])."
            )


def _only_depth(teacher: PretrainedConfig, student: PretrainedConfig) -> str:
    """The message for a config that changes more than the depth: names what differs, whole numbers before the rest."""
    ours, theirs = student.to_dict(), teacher.to_dict()
    expected = {
        "num_hidden_layers",
        teacher.attribute_map.get("num_hidden_layers"),
        "transformers_version",
        "dtype",
        *_PER_BLOCK,
    }
    names = [name for name in {**theirs, **ours} if name not in expected and theirs.get(name) != ours.get(name)]
    sizes = [name for name in names if any(isinstance(side.get(name), int | dict) for side in (ours, theirs))]
    differs = ", ".join(f"{name} (teacher {theirs.get(name)}, student {ours.get(name)})" for name in sizes or names)
    return (
        "A student that is copied from its teacher may differ in depth only (for its pieces, see kept_ids; for hidden "
        "size, heads and intermediate size units=distil_trainer.width.important_units(teacher, batches, config)). "
        f"Differs: {differs or 'nothing in the config'}. Make the config with student_config and leave these alone."
    )


def _sources(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    chosen: Mapping[str | None, tuple[int, ...]],
    kept_ids: Sequence[int] | None,
    cut: Cut | None,
) -> dict[str, torch.Tensor]:
    """The teacher's tensor for each parameter and buffer of the student, cut to its units, by name.

    Raises:
        StudentError: one does not fit.
    """
    ours, theirs = tensors(student), tensors(teacher)
    names = {name: name for name in ours}
    left_out: tuple[str, ...] = ()
    depths = {stack: len(members) for stack, members in _stacks(teacher).items()}
    for stack, members in _stacks(student).items():
        for prefix in (f"{name}." for name, module in student.named_modules() if module is members):
            left_out += tuple(f"{prefix}{k}." for k in range(depths[stack]) if k + 1 not in chosen[stack])
            for name in ours:
                index, _, rest = name.removeprefix(prefix).partition(".")
                if name.startswith(prefix):
                    names[name] = f"{prefix}{chosen[stack][int(index)] - 1}.{rest}"

    # Every weight of the copied blocks and of what surrounds them has its place; buffers may be there for other blocks.
    wanted = {name for name, _ in teacher.named_parameters(remove_duplicate=False) if not name.startswith(left_out)}
    strangers = sorted((set(names.values()) - set(theirs)) | (wanted - set(names.values())))
    if strangers:
        raise StudentError(
            f"Each weight of the student should come from the same place of the teacher; {', '.join(strangers[:3])} of "
            f"the teacher is on one side only. {_only_depth(teacher.config, student.config)} If the teacher was loaded "
            "with extra arguments (add_pooling_layer=False, say), load it without them. If a block differs in kind "
            "from the others (the first of ModernBERT has one LayerNorm less), copy it to the same place."
        )
    tied: dict[int, torch.Tensor] = {}
    sources: dict[str, torch.Tensor] = {}
    for name, source_name in names.items():
        source, target = theirs[source_name], ours[name]
        if cut is not None:
            source = cut(source_name, source, tuple(target.shape))
        sources[name] = source
        if not fits(source, target, getattr(teacher.config, "vocab_size", 0), kept_ids):
            raise StudentError(
                f"{source_name} is {tuple(source.shape)} in the teacher and {tuple(target.shape)} in the student. "
                f"{_only_depth(teacher.config, student.config)}"
            )
        if tied.setdefault(id(target), source) is not source:
            raise StudentError(
                f"{name} is tied in the student, but the teacher has a tensor of its own there. "
                "Untie it: student_config(..., tie_word_embeddings=False)."
            )
    return sources


def _embeddings(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The child of the base model that holds the word table and none of the blocks, by name."""
    table, first_blocks = model.get_input_embeddings(), [stack[0] for stack in _stacks(model).values()]
    for name, child in model.base_model.named_children():
        modules = set(child.modules())
        if table in modules and not modules.intersection(first_blocks):
            return {name: child}
    raise StudentError(
        f"{type(model).__name__} keeps its embeddings in no module of their own. Leave freeze_embeddings=False."
    )


def _public_name(name_or_path: str) -> str:
    """What may be published: a Hub id as it is, of a local path the last folder name only."""
    is_path = Path(name_or_path).exists() or name_or_path.startswith((".", "~", os.sep)) or name_or_path.count("/") > 1
    return os.path.basename(os.path.abspath(name_or_path)) if name_or_path and is_path else name_or_path
