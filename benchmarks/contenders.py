"""Who takes part. Each is a function from a plan to the student it trains and a function that runs the training.

`train(mark)` calls `mark` once after every optimizer step, when the gradients are gone: seconds a step are the
differences of two marks, with everything that a step costs there, fetching the batch included.
"""

import contextlib
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from job import Plan, alignments, collate, examples, loader, models, products
from transformers import TrainerCallback, TrainingArguments

from distil_trainer import DistillationTrainer

Mark = Callable[[], None]
Train = Callable[[Mark], None]
Built = tuple[Any, Train]  # the student (None for the matrix products), and its training


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A row of the table.

    Attributes:
        build: a plan -> the student and its training.
        title: what it is.
        needs: the module that must be importable.
        bf16: computes in bfloat16 on the CPU too; on a GPU all do.
        same_as: a contender that is the same thing on a GPU, where this one is left out.
        on_request: takes part only if it is named.
    """

    build: Callable[[Plan], Built]
    title: str
    needs: str = "distil_trainer"
    bf16: bool = False
    same_as: str | None = None
    on_request: bool = False

    @property
    def available(self) -> bool:
        """Whether what it needs is installed."""
        return find_spec(self.needs) is not None


def ours(plan: Plan, *, dropout: float, bf16: bool, compiled: bool = False) -> Built:
    """`DistillationTrainer`, the models with their heads, sdpa attention."""
    teacher, student = models(plan, dropout=dropout, attention="sdpa")
    bf16 = bf16 or plan.device == "cuda"

    def train(mark: Mark) -> None:
        with tempfile.TemporaryDirectory() as folder:
            trainer = DistillationTrainer(
                model=student,
                args=TrainingArguments(folder, bf16=bf16, torch_compile=compiled, **arguments(plan)),
                teacher_model=teacher,
                teacher_dtype=torch.bfloat16 if bf16 else None,
                alignments=alignments(plan),
                train_dataset=examples(plan),
                data_collator=collate,
                callbacks=[Marks(mark)],
            )
            trainer.train()

    return student, train


TEXTBREWER_OUTPUTS = {"output_hidden_states": True, "output_attentions": True, "return_dict": True}


def general_distiller(
    teacher: Any,
    student: Any,
    *,
    layers: tuple[int, int],
    reads_mask: bool,
    folder: str,
    device: str = "cpu",
    accumulation: int = 1,
) -> Any:
    """TextBrewer's GeneralDistiller: hidden states and attention probabilities of one pair of layers, mse, weights 1.

    Args:
        teacher: with eager attention, without which TextBrewer gets no attention.
        student: likewise.
        layers: of teacher and student. It counts hidden states from the embeddings and attention from the first block,
            so one number is the output of block k and the attention of block k + 1.
        reads_mask: whether padding is left out.
        folder: where it may write.
        device: "cpu" or "cuda".
        accumulation: micro-batches a step.
    """
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    def adapt(batch: dict[str, torch.Tensor], outputs: Any) -> dict[str, Any]:
        features = {"hidden": outputs.hidden_states, "attention": outputs.attentions}
        return features | ({"inputs_mask": batch["attention_mask"]} if reads_mask else {})

    matches = [
        {"layer_T": layers[0], "layer_S": layers[1], "feature": feature, "loss": f"{feature}_mse", "weight": 1}
        for feature in ("hidden", "attention")
    ]
    training = TrainingConfig(
        gradient_accumulation_steps=accumulation, ckpt_steps=10**6, log_dir=None, output_dir=folder, device=device
    )
    config = DistillationConfig(hard_label_weight=0, kd_loss_weight=0, intermediate_matches=matches)
    return GeneralDistiller(training, config, teacher, student, adapt, adapt)


def textbrewer(plan: Plan, *, dropout: float, tuned: bool) -> Built:
    """TextBrewer's GeneralDistiller: eager attention, without which it gets no attention, and outputs of all layers.

    As published: MLM heads, dropout, no mask. Tuned: base models, no dropout, and the mask.
    """
    job = plan.job
    teacher, student = models(plan, dropout=dropout, attention="eager")
    if tuned:
        teacher, student = teacher.base_model, student.base_model
    batches = loader(plan, labels=not tuned)  # base models take none
    layers = job.teacher_layers - 1, job.student_layers - 1

    def train(mark: Mark) -> None:
        with tempfile.TemporaryDirectory() as folder, _autocast(plan):
            distiller = general_distiller(
                teacher,
                student,
                layers=layers,
                reads_mask=tuned,
                folder=folder,
                device=plan.device,
                accumulation=plan.accumulation,
            )
            optimizer = _optimizer(plan, student)
            clear = optimizer.zero_grad

            def clear_and_mark() -> None:
                clear()
                mark()

            optimizer.zero_grad = clear_and_mark  # type: ignore[assignment]  # its loop calls nothing of ours after that
            with distiller:
                distiller.train(
                    optimizer,
                    batches,
                    num_steps=plan.steps,
                    **TEXTBREWER_OUTPUTS,
                )

    return student, train


class _AttentionMSE(torch.nn.modules.loss._Loss):
    """MSE of the attention probabilities that BERT's eager attention module returns second."""

    def forward(self, student: Any, teacher: Any) -> torch.Tensor:
        return torch.nn.functional.mse_loss(student[1], teacher[1])


def modelopt(plan: Plan, *, attention: bool) -> Built:
    """ModelOpt's `mtd.convert` of base models in a plain loop: it matches outputs of modules, and brings no loop.

    Without `attention`: its own means, the hidden pair only, sdpa. With it: the whole job, by a loss written here, and
    eager attention.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says in every process that this version of transformers is not tested
        import modelopt.torch.distill as mtd

    job = plan.job
    implementation = "eager" if attention else "sdpa"
    teacher, student = (m.base_model for m in models(plan, dropout=0.0, attention=implementation))
    blocks = f"encoder.layer.{job.student_layers - 2}", f"encoder.layer.{job.teacher_layers - 2}"  # its last but one
    last = f"encoder.layer.{job.student_layers - 1}", f"encoder.layer.{job.teacher_layers - 1}"
    criterion: dict[tuple[str, ...], Any] = {blocks: torch.nn.MSELoss()}
    balancer = None
    if attention:
        criterion[tuple(f"{name}.attention.self" for name in last)] = _AttentionMSE()
        balancer = mtd.StaticLossBalancer([0.5, 0.5])  # its weights may not exceed 1 together
    settings = {"teacher_model": teacher, "criterion": criterion, "loss_balancer": balancer}

    def train(mark: Mark) -> None:
        optimizer = _optimizer(plan, student)  # before convert: afterwards the teacher's parameters are listed too
        distilled = mtd.convert(student, mode=[("kd_loss", settings)])
        distilled.train()  # its `train` returns nothing
        for count, batch in enumerate(loader(plan, labels=False), start=1):
            with _autocast(plan):
                distilled(**{name: tensor.to(plan.device) for name, tensor in batch.items()})
                loss = distilled.compute_kd_loss()
            (loss / plan.accumulation).backward()
            if count % plan.accumulation == 0:
                optimizer.step()
                optimizer.zero_grad()
                mark()

    return student, train


def bertdistiller(plan: Plan) -> Built:
    """MiniLMTrainer of bertdistiller with one relation, queries to keys: attention by KL, no hidden states."""
    from bertdistiller import MiniLMTrainer, MiniLMTrainingArguments

    job = plan.job
    teacher, student = (m.base_model for m in models(plan, dropout=0.0, attention="sdpa"))
    teacher.config.architectures = ["BertForMaskedLM"]  # it asks by this name

    def train(mark: Mark) -> None:
        with tempfile.TemporaryDirectory() as folder:
            args = MiniLMTrainingArguments(
                folder,
                teacher_layer=job.teacher_layers,
                student_layer=job.student_layers,
                student_hidden_size=job.width,
                student_attention_heads=job.heads,
                num_relation_heads=job.heads,
                relations={(1, 2): 1.0},
                bf16=plan.device == "cuda",
                **arguments(plan),
            )
            MiniLMTrainer(
                model=student,
                args=args,
                teacher_model=teacher,
                train_dataset=examples(plan, labels=False),
                data_collator=collate,
                callbacks=[Marks(mark)],
            ).train()

    return student, train


def matrix_products(plan: Plan) -> Built:
    """The products that the job needs, and nothing else: no data flows from one to the next."""
    dtype = torch.bfloat16 if plan.device == "cuda" else torch.float32
    operands = []
    for often, batch, m, k, n in products(plan.job):
        shapes = ((m, k), (k, n)) if batch == 1 else ((batch, m, k), (batch, k, n))
        operands.append((often, [torch.randn(shape, device=plan.device, dtype=dtype) for shape in shapes]))

    def train(mark: Mark) -> None:
        for _ in range(plan.steps):
            for often, (left, right) in operands:
                for _ in range(often):
                    torch.matmul(left, right)
            mark()

    return None, train


class Marks(TrainerCallback):
    """Marks the end of every step."""

    def __init__(self, mark: Mark) -> None:
        self.mark = mark

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.mark()


def arguments(plan: Plan) -> dict[str, Any]:
    """The training arguments that both users of `Trainer` get."""
    return {
        "max_steps": plan.steps,
        "per_device_train_batch_size": plan.job.rows // plan.accumulation,
        "gradient_accumulation_steps": plan.accumulation,
        **({"optim": "sgd"} if plan.optimizer == "sgd" else {}),  # its default is the fused form of AdamW
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential",
        "use_cpu": plan.device == "cpu",
    }


def _optimizer(plan: Plan, student: Any) -> torch.optim.Optimizer:
    """What the examples of those libraries use: torch's AdamW as it comes."""
    if plan.optimizer == "sgd":
        return torch.optim.SGD(student.parameters(), lr=plan.learning_rate)
    return torch.optim.AdamW(student.parameters(), lr=plan.learning_rate, weight_decay=0.0)


def _autocast(plan: Plan) -> Any:
    """bfloat16 on a GPU, for those that leave it to the user."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if plan.device == "cuda" else contextlib.nullcontext()


BOUND, PUBLISHED = "matrix-products", "textbrewer"
CONTENDERS = {
    PUBLISHED: Contender(
        build=partial(textbrewer, dropout=0.1, tuned=False), title="TextBrewer as published", needs="textbrewer"
    ),
    "textbrewer-tuned": Contender(
        build=partial(textbrewer, dropout=0.0, tuned=True), title="TextBrewer tuned", needs="textbrewer"
    ),
    "modelopt": Contender(
        build=partial(modelopt, attention=False), title="ModelOpt, hidden pair only", needs="modelopt"
    ),
    "modelopt-attention": Contender(
        build=partial(modelopt, attention=True), title="ModelOpt, attention loss written by hand", needs="modelopt"
    ),
    "bertdistiller": Contender(build=bertdistiller, title="bertdistiller, attention only", needs="bertdistiller"),
    "ours-dropout": Contender(build=partial(ours, dropout=0.1, bf16=False), title="ours, student dropout 0.1"),
    "ours": Contender(build=partial(ours, dropout=0.0, bf16=False), title="ours, dropout 0"),
    "ours-bf16": Contender(
        build=partial(ours, dropout=0.0, bf16=True), title="ours, dropout 0", bf16=True, same_as="ours"
    ),
    "ours-compiled": Contender(
        build=partial(ours, dropout=0.0, bf16=False, compiled=True), title="ours, torch.compile", on_request=True
    ),
    BOUND: Contender(build=matrix_products, title="matrix products only"),
}
