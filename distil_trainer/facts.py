"""Gathers what a record holds from the objects of a run: models, arguments, logs and the machine."""

import contextlib
import dataclasses
import enum
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.integrations import CodeCarbonCallback
from transformers.trainer_pt_utils import AcceleratorConfig

from distil_trainer.blocks import STACKS, blocks, depth, has_two_stacks
from distil_trainer.errors import CaptureError
from distil_trainer.plain import TOKEN, without_paths
from distil_trainer.record import HUB_ID, AlignmentFacts, Emissions, Hardware, ModelFacts
from distil_trainer.schedule import Schedule, Scheduled, value_at

_PACKAGES = ("distil_trainer", "transformers", "torch", "datasets", "accelerate", "huggingface_hub")
_NOT_SCIENCE = re.compile(
    r"output_dir|logging_dir|run_name|report_to|disable_tqdm|dataloader_pin_memory|push_to_hub.*|hub_.*|.*token"
)
_HIDDEN = "REDACTED"
_SECRET = re.compile(r"(?i)(^|[._-])(token|secret|password|api[_-]?key)$")


def hub_id(name: str | None) -> str | None:
    """`name` if it can be an id on the Hub, None if it is a folder here or cannot be an id."""
    return name if name and HUB_ID.fullmatch(name) and not Path(name).exists() else None


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """Where the Hub's local cache holds `name` at `revision`, in a folder named by the commit; None if it does not."""
    file = try_to_load_from_cache(name, "config.json", revision=revision or "main")
    return Path(file).parent if isinstance(file, str) else None


def cached_revision(name: str, revision: str | None = None) -> str | None:
    """The commit that the Hub's local cache holds of `name` at `revision`; None if it holds none."""
    folder = cached_folder(name, revision)
    return folder.name if folder else None


def model_facts(
    model: PreTrainedModel, *, name: str, folder: str | os.PathLike[str] | None = None, **known: Any
) -> ModelFacts:
    """What can be read off a model. `known` are further fields of `ModelFacts`: id, revision, license, language, ...

    `embedding_parameters` counts the tables (`nn.Embedding`); a tied output layer is counted once, there.
    `folder`, where the model was saved, gives `bytes_on_disk`: the size of its weights.
    """
    config = model.config
    facts: dict[str, Any] = {
        "name": name,
        "class_name": type(model).__name__,
        "model_type": config.model_type,
        "layers": getattr(config, "num_hidden_layers", None),  # config names differ; transformers maps the usual ones
        "decoder_layers": depth(config, "decoder") if has_two_stacks(model) else None,
        "hidden_size": getattr(config, "hidden_size", None),
        "heads": getattr(config, "num_attention_heads", None),
        "vocabulary": getattr(config, "vocab_size", None),
        "max_length": _max_length(model),
        "parameters": _count(model.parameters()),
        "embedding_parameters": _count(
            p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
        ),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    with contextlib.suppress(CaptureError):  # an unusual model: the number stays unknown
        stacks = STACKS if has_two_stacks(model) else (None,)
        facts["block_parameters"] = _count(p for stack in stacks for p in blocks(model, stack).parameters())
    if folder is not None:
        files = [f for pattern in ("*.safetensors", "pytorch_model*.bin") for f in Path(folder).glob(pattern)]
        facts["bytes_on_disk"] = sum(f.stat().st_size for f in files) or None
    return ModelFacts(**{**facts, **known})


def alignment_facts(alignments: Iterable[Any]) -> tuple[AlignmentFacts, ...]:
    """The fields of each `Alignment`, and its name, as `Record(alignments=...)` takes them."""
    return tuple(
        AlignmentFacts(
            **dataclasses.asdict(alignment)
            | {"name": alignment.name}
            | scheduled_facts("weight", alignment.weight)
            | scheduled_facts("temperature", alignment.temperature)
        )
        for alignment in alignments
    )


def scheduled_facts(name: str, value: Scheduled | None) -> dict[str, Any]:
    """A number, as it was at last, and how it came there, as two fields of a record."""
    schedule = str(value) if isinstance(value, Schedule) else None
    return {name: None if value is None else value_at(value, 1.0), f"{name}_schedule": schedule}


def all_arguments(args: TrainingArguments) -> dict[str, Any]:
    """The arguments of a run that are not None, as plain values.

    Names of folders, runs, repositories and tokens are left out, and so is any value that is a path.
    """
    values = {
        f.name: _plain(getattr(args, f.name))
        for f in dataclasses.fields(args)
        if f.init and not _NOT_SCIENCE.fullmatch(f.name)
    }
    return {
        name: value
        for name, value in values.items()
        if value is not None and not (isinstance(value, str) and re.search(r"[\\/]", value))
    }


def changed_arguments(args: TrainingArguments) -> dict[str, Any]:
    """Those of `all_arguments` that differ from the default.

    The defaults are read off the class: to make an instance would reset the state of accelerate while it is in use.
    """
    defaults = {
        f.name: _plain(f.default if f.default_factory is dataclasses.MISSING else f.default_factory())
        for f in dataclasses.fields(args)
        if f.init
    }
    defaults["accelerator_config"] = _plain(AcceleratorConfig())  # what None becomes
    return {
        name: value
        for name, value in all_arguments(args).items()
        if value != defaults[name] and (value or defaults[name])  # None, False and "" alike mean that it is not set
    }


def settings_facts(args: TrainingArguments) -> dict[str, Any]:
    """The arguments of a run, as fields of `Record`."""
    return {"hyperparameters": changed_arguments(args), "arguments": all_arguments(args)}


def training_facts(trainer: Trainer) -> dict[str, Any]:
    """What any trainer tells after `train()`, as fields of `Record`: how it was set, how long it ran, how it went."""
    state = trainer.state
    runtimes = [entry["train_runtime"] for entry in state.log_history if "train_runtime" in entry]
    return {
        **settings_facts(trainer.args),
        "seconds": runtimes[-1] if runtimes else None,
        "steps": state.global_step,
        "tokens": int(state.num_input_tokens_seen) or None,
        "loss_curve": loss_curve(state.log_history),
        "peak_memory_gib": peak_memory_gib(),
        "seeds": (trainer.args.seed,),
    }


def process_facts() -> dict[str, Any]:
    """What this process knows of itself, as fields of `Record`: where, when, with what and how it was called."""
    return {
        "versions": versions(),
        "hardware": hardware(),
        "date": now(),
        "command": command(),
        "git_commit": git_commit(),
    }


def loss_curve(log_history: Iterable[Mapping[str, Any]]) -> dict[str, tuple[tuple[int, float], ...]]:
    """The points of "loss", "loss/<term>", "eval_loss" and "eval_loss/<term>" in `trainer.state.log_history`.

    Those that are NaN or infinite are left out: a record is strict JSON.
    """
    curve: dict[str, list[tuple[int, float]]] = {}
    for entry in log_history:
        for name, value in entry.items():
            if re.fullmatch(r"(eval_)?loss(/.+)?", name) and math.isfinite(value):
                curve.setdefault(name, []).append((entry["step"], float(value)))
    return {name: tuple(points) for name, points in curve.items()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the result, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str | None:
    """The model name of the processor."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine() or None


def hardware() -> Hardware:
    """The machine of this process."""
    memory = None
    if "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return Hardware(
        cpu=cpu_name(),
        cores=torch.get_num_threads(),
        memory_gib=memory,
        gpus=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
        processes=torch.distributed.get_world_size() if distributed else 1,
    )


def peak_memory_gib() -> float | None:
    """The most memory that this process has held so far: on its GPU if it used one, else in RAM."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        peak = torch.cuda.max_memory_allocated()
    else:
        try:
            import resource
        except ModuleNotFoundError:  # Windows
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return round(peak / 2**30, 2)


def git_commit() -> str | None:
    """The commit of the working directory, with "-dirty" if tracked files were changed; None outside of git."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}{'-dirty' if changes else ''}" if commit else None


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or one of another user
        return None


def measured_emissions(callbacks: Iterable[Any]) -> Emissions | None:
    """What codecarbon measured, if its callback (`report_to="codecarbon"`) was among those of the run."""
    for callback in callbacks:
        data = getattr(getattr(callback, "tracker", None), "final_emissions_data", None)
        if isinstance(callback, CodeCarbonCallback) and data is not None:
            return Emissions(
                co2_grams=1000 * data.emissions, energy_kwh=data.energy_consumed, country=data.country_name or None
            )
    return None


def now() -> str:
    """The time as a record's `date`: ISO 8601, UTC, in seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def command(argv: list[str] | None = None) -> str:
    """The command line of this process, without tokens and without absolute paths."""
    launcher = ["accelerate", "launch"] if "ACCELERATE_MIXED_PRECISION" in os.environ else ["python"]
    words: list[str] = []
    for word in sys.argv if argv is None else argv:
        key, equals, value = word.partition("=")
        if words and _SECRET.search(words[-1].lstrip("-")) and words[-1].startswith("-"):
            words.append(_HIDDEN)
        elif equals and _SECRET.search(key):
            words.append(f"{key}={_HIDDEN}")
        else:
            words.append(f"{key}={_without_path(value)}" if equals else _without_path(word))
    return shlex.join([*launcher, *(TOKEN.sub(_HIDDEN, word) for word in words)])


def _without_path(word: str) -> str:
    """The last part of a path of this machine, which may hold spaces; other words as they are, paths in them cut."""
    cut = without_paths(word)
    is_path = re.match(r"(file://)?(~?/|[A-Za-z]:[\\/]|\\\\)", word)
    return re.split(r"[\\/]+", word.rstrip("\\/"))[-1] if is_path and cut != "~" else cut


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in {id(p): p for p in parameters}.values())  # a tied parameter counts once


def _max_length(model: PreTrainedModel) -> int | None:
    length: int | None = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        # RoBERTa keeps the first rows of the table for padding: 514 positions hold 512 tokens.
        if length and name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return length - (0 if module.padding_idx is None else module.padding_idx + 1)
    return length


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
