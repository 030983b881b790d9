"""One loop for all tasks, on plain PyTorch; ``torchrun`` starts it for many processes and machines.

Read it from top to bottom. It knows a :class:`~nnface.training.task.Task` and nothing of boxes, parts or labels.
What is random follows from (seed, step, number) and the rest is saved, so a run that is killed at any moment and
resumed ends with the same weights, bit for bit, on the same machine.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from nnface.errors import DeviceError, RecipeError, TrainingError
from nnface.files import locked
from nnface.models import file as model_file
from nnface.training.recipe import Loop, Recipe, Schedule, dump
from nnface.training.recipe import Optimizer as OptimizerPart
from nnface.training.state import RunFolder, State
from nnface.training.task import Evaluation, Task

_PATIENCE = 10.0
"""Seconds that a resume waits for a killed run's loader processes, which look every 5 whether their parent lives."""


_FEW = 20
"""Fewer pictures than this to choose by, and the run says so."""


class Writer(Protocol):
    """What the loop needs of a TensorBoard writer."""

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Note one number."""
        ...


def train(
    task: Task,
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    tensorboard: bool = False,
    measure_start: bool = False,
) -> Path:
    """Train to the recipe's end and return the best model file.

    Args:
        task: what is trained.
        recipe: its values.
        out: the run folder; it gets recipe.toml, about.json, metrics.jsonl, state.pt, best and last.safetensors.
        resume: go on from ``out/state.pt``.
        device: ``cpu``, ``cuda`` (one for each process of a machine) or ``cuda:1``.
        tensorboard: write events to ``out`` as well.
        measure_start: evaluate the weights that the run starts from too: they may stay the best.

    Raises:
        NnfaceError: another process trains in the run folder.
        TrainingError: the run folder does not fit or cannot be written, or the loss or its gradients are not finite
            (the pictures are named).
        RecipeError: the batch does not divide by processes and accumulated parts.
        DeviceError: the device is not there.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the state is saved.
    """
    place = find_device(device)
    rank, world = _join_processes(place)
    here = _Place(place, rank, world)
    best = _train(task, recipe, out, here, resume=resume, tensorboard=tensorboard, measure_start=measure_start)
    if world > 1:
        # After _train, whose DistributedDataParallel holds the group too: were that the last to let go of it, gloo's
        # destructor would join its threads with the interpreter's lock held, while they wait for it (torch 2.13).
        dist.destroy_process_group()
    return best


class _Place(NamedTuple):
    """Where this process trains, and which one of how many it is."""

    device: torch.device
    rank: int
    world: int


def _train(
    task: Task, recipe: Recipe, out: Path, here: _Place, *, resume: bool, tensorboard: bool, measure_start: bool
) -> Path:
    """Train as :func:`train` says, in a group of processes that was joined already."""
    _, rank, world = here
    if recipe.loop.batch % (shares := world * recipe.loop.accumulate):
        raise RecipeError(
            f"loop.batch {recipe.loop.batch} does not divide by {shares} processes times accumulated parts"
        )
    folder, text = RunFolder(out), dump(recipe)
    if resume:
        folder.check(text, task.fingerprint())
    elif rank == 0:
        folder.make()
    with locked(out, _PATIENCE, partial(print, file=sys.stderr)) if rank == 0 else nullcontext():
        if world > 1:
            dist.barrier()  # nobody reads the state of a run that is just ending
        state = _fresh_state(task, recipe, here.device)
        writer = _tensorboard(out) if tensorboard and rank == 0 else None
        if not resume and rank == 0:
            folder.begin(text, task.fingerprint())
        try:
            return _run(task, recipe, folder, state, here, writer, resume=resume, measure_start=measure_start)
        except BaseException:  # Ctrl-C too; it is raised again
            if not resume and rank == 0 and state.step == 0:
                folder.forget()
            raise


def _run(
    task: Task,
    recipe: Recipe,
    folder: RunFolder,
    state: State,
    here: _Place,
    writer: Writer | None,
    *,
    resume: bool,
    measure_start: bool,
) -> Path:
    """All steps, in a folder that is this run's own."""
    place, rank, world = here
    if resume and folder.state.exists():
        state.load(folder.state)
    if resume and rank == 0:
        folder.forget_after(state.step or -1)  # before its first saved step a run does all again
    loop = recipe.loop
    model: nn.Module = DistributedDataParallel(state.model) if world > 1 else state.model
    rate = scaled_rate(recipe.optimizer, loop.batch)
    say = _Reporter(rank, loop, rate, state)
    if rank == 0:
        say.pictures(*task.sizes())

    result: Evaluation | None = None
    if measure_start and rank == 0 and state.step == 0:
        _evaluate(task, state, folder, say, writer)
    parts = iter(task.batches(state.step, rank, world))
    with _stopping() as stop:
        while state.step < loop.steps:
            _set_rate(state.optimizer, rate * schedule(recipe.schedule, state.step, loop.steps))
            _training_mode(model, loop.freeze_batch_norm)
            step_parts = list(islice(parts, loop.accumulate))
            # For dropout; the data has its own numbers. After the loader, which takes a random number when it begins.
            torch.manual_seed(recipe.seed * 1_000_003 + state.step)
            counts = _summed_over_processes([task.counts(part) for part in step_parts], place)
            logged: dict[str, float] = {}
            for part in step_parts:
                with torch.autocast(place.type, torch.bfloat16, enabled=loop.precision == "bfloat16"):
                    losses = task.loss(model, part, counts)
                total = sum(losses.values(), torch.zeros((), device=place))
                if not torch.isfinite(total):
                    raise TrainingError(_not_finite(losses, task.names(part), state.step))
                # Processes average their gradients; each part is already divided by the whole step's counts.
                (total * world).backward()  # type: ignore[no-untyped-call]
                for name, value in losses.items():
                    logged[name] = logged.get(name, 0.0) + float(value.detach())
            norm = _clip(state.model, recipe.optimizer.clip_norm)
            if not math.isfinite(norm):  # in all processes alike, which share their gradients; no such state is saved
                raise TrainingError(_no_gradients([n for part in step_parts for n in task.names(part)], state.step))
            if recipe.optimizer.clip_norm:
                logged["norm"] = norm
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            if state.average is not None:
                state.average.update_parameters(state.model)
            state.step += 1

            stopping = _anywhere(stop(), place)  # all processes leave after the same step
            if rank == 0:
                row = say.step(state.step, logged)
                if row is not None:
                    folder.log(row)
                    _note(writer, row, state.step)
                if state.step % loop.evaluate_every == 0 or state.step == loop.steps:
                    result = _evaluate(task, state, folder, say, writer)
                if state.step % loop.save_every == 0 or state.step == loop.steps or stopping:
                    state.save(folder.state)
            if stopping:
                raise KeyboardInterrupt
    if rank == 0:
        result = result or task.evaluate(state.shipped)  # a run that is resumed after its last step
        model_file.save(folder.last, state.shipped, result.spec)
    return folder.best if folder.best.exists() else folder.last


def schedule(part: Schedule, step: int, steps: int) -> float:
    """The share of the learning rate at a step: linear warm-up, then the recipe's shape."""
    if step < part.warmup:
        return (step + 1) / part.warmup
    if part.shape == "cosine":
        progress = (step - part.warmup) / max(steps - part.warmup, 1)
        return part.final + (1 - part.final) * (1 + math.cos(math.pi * progress)) / 2
    if part.shape == "steps":
        return float(part.gamma ** sum(step >= milestone * steps for milestone in part.milestones))
    return 1.0


def scaled_rate(part: OptimizerPart, batch: int) -> float:
    """The recipe's learning rate moved from the batch that it was chosen for to the batch that is used."""
    ratio = batch / part.lr_batch
    return part.lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[part.lr_rule]


def make_optimizer(part: OptimizerPart, model: nn.Module, lr: float) -> Optimizer:
    """SGD or AdamW; weight decay goes to weight matrices, and to batch norms and biases only with ``decay_all``."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": part.weight_decay},
        {"params": others, "weight_decay": part.weight_decay if part.decay_all else 0.0},
    ]
    if part.name == "sgd":
        return SGD(groups, lr=lr, momentum=part.momentum)
    return AdamW(groups, lr=lr)


def make_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential moving average, whose decay rises from 0.1 so that the first weights are forgotten soon."""
    if not decay:
        return None

    def update(averaged: Any, current: Any, count: Any) -> None:
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        for old, new in zip(averaged, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new.detach().to(old), share)
            else:
                old.copy_(new)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def _fresh_state(task: Task, recipe: Recipe, place: torch.device) -> State:
    torch.manual_seed(recipe.seed)
    layout = torch.channels_last if recipe.loop.channels_last else torch.contiguous_format
    model = task.model().to(place, memory_format=layout)  # type: ignore[call-overload]
    optimizer = make_optimizer(recipe.optimizer, model, recipe.optimizer.lr)
    return State(model, optimizer, make_average(model, recipe.loop.ema))


def _evaluate(task: Task, state: State, folder: RunFolder, say: "_Reporter", writer: Writer | None) -> Evaluation:
    """Measure the weights that would be shipped, and keep them if they are the best so far (NaN: no telling)."""
    result = task.evaluate(state.shipped)
    if not result.best <= state.best:
        state.best = result.best
        kept = {name: round(value, 5) for name, value in result.figures.items() if math.isfinite(value)}
        model_file.save(folder.best, state.shipped, replace(result.spec, figures=kept))
    row = {"step": state.step, **result.figures, "best": result.best}
    folder.log(row)
    _note(writer, row, state.step)
    say.figures(state.step, result.figures, state.best)
    return result


def _training_mode(model: nn.Module, freeze_batch_norm: bool) -> None:
    model.train()
    if freeze_batch_norm:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _set_rate(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def _not_finite(losses: Mapping[str, Tensor], names: list[str], step: int) -> str:
    values = ", ".join(f"{name} {float(value):g}" for name, value in losses.items())
    return f"the loss is not finite at step {step + 1} ({values}); the pictures were {', '.join(names)}"


def _clip(model: nn.Module, most: float) -> float:
    """Scale the gradients down to a norm (0: leave them) and return what it was, infinite where squares overflow."""
    if most:
        return float(nn.utils.clip_grad_norm_(model.parameters(), most))
    return float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))


def _no_gradients(names: list[str], step: int) -> str:
    return f"the gradients are not finite at step {step + 1}, though the loss is; the pictures were {', '.join(names)}"


def _summed_over_processes(parts: list[Mapping[str, float]], place: torch.device) -> dict[str, float]:
    """The counts of the whole step: over this process's parts, then over the processes."""
    names = sorted(parts[0])
    sums = torch.tensor([sum(part[name] for part in parts) for name in names], dtype=torch.float64, device=place)
    if dist.is_initialized():
        dist.all_reduce(sums)
    return dict(zip(names, sums.tolist(), strict=True))


def _anywhere(flag: bool, place: torch.device) -> bool:
    """Whether the flag is set in any process."""
    if not dist.is_initialized():
        return flag
    flags = torch.tensor(float(flag), device=place)
    dist.all_reduce(flags)
    return bool(flags)


def _join_processes(place: torch.device) -> tuple[int, int]:
    """This process's rank and the number of processes, as torchrun says."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        # The others wait while the first one evaluates, which may take long; torchrun ends them if one fails.
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timedelta(days=1))
    return int(os.environ.get("RANK", "0")), world


def find_device(name: str) -> torch.device:
    """Where this process trains: ``cpu``, ``cuda:N``, or of ``cuda`` the one that torchrun's LOCAL_RANK names.

    Raises:
        DeviceError: no such device, or it is not there.
    """
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or (":" in name and not number.isdecimal()):
        raise DeviceError(f"training runs on cpu, cuda or cuda:N, not on {name!r}")
    place = torch.device("cuda", int(number or os.environ.get("LOCAL_RANK", "0")))
    if place.index >= torch.cuda.device_count():
        raise DeviceError(f"--device {name} was asked for, but this torch does not see it; use --device cpu")
    torch.cuda.set_device(place)
    return place


@contextmanager
def _stopping() -> Iterator[Any]:
    """A function that says whether Ctrl-C or SIGTERM came: the step is finished and the state saved first."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:  # a second time: at once
            raise KeyboardInterrupt
        came.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _tensorboard(out: Path) -> Writer:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError("--tensorboard needs the package tensorboard: pip install 'nnface[tensorboard]'") from error
    writer: Writer = SummaryWriter(out)
    return writer


def _note(writer: Writer | None, row: Mapping[str, Any], step: int) -> None:
    if writer is not None:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, float(value), step)


class _Reporter:
    """Progress on stderr: a line that is rewritten on a terminal, plain lines elsewhere."""

    def __init__(self, rank: int, loop: Loop, rate: float, state: State) -> None:
        self.loop, self.rate, self.begun = loop, rate, state.step
        self.terminal = sys.stderr.isatty()
        self.start = self.last = time.monotonic()
        self.sums: dict[str, float] = {}
        self.steps = 0
        self.best = state.best
        self.told = f"  (best {state.best:.4f})" if math.isfinite(state.best) else ""
        if rank == 0:
            self._write(f"{loop.steps - state.step} steps of {loop.batch} pictures, learning rate {rate:g}", True)

    def pictures(self, train: int, chosen: int) -> None:
        """Show how many pictures there are to train on and to choose by."""
        doubt = "" if chosen >= _FEW else "; too few to tell one checkpoint from another"
        if not chosen:
            doubt = "; the last weights count as the best"
        self._write(f"{train} pictures to train on, {chosen} kept for choosing{doubt}", True)

    def step(self, step: int, losses: Mapping[str, float]) -> dict[str, Any] | None:
        """Note a step; every ``log_every`` steps show the mean and give the row for metrics.jsonl."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1  # after a resume the first row is of fewer steps
        if step % self.loop.log_every:
            return None
        now = time.monotonic()
        speed = self.loop.batch * self.steps / max(now - self.last, 1e-9)
        left = (now - self.start) / max(step - self.begun, 1) * (self.loop.steps - step)
        means = {name: value / self.steps for name, value in self.sums.items()}
        text = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        eta = f"{int(left // 3600)}:{int(left // 60 % 60):02d}:{int(left % 60):02d}"
        self._write(f"step {step}/{self.loop.steps}  {text}  {speed:.1f} pictures/s  left {eta}{self.told}", False)
        self.sums, self.steps, self.last = {}, 0, now
        return {"step": step, **{k: round(v, 6) for k, v in means.items()}, "pictures_per_second": round(speed, 2)}

    def figures(self, step: int, figures: Mapping[str, float], best: float) -> None:
        """Show an evaluation; ``best`` is that of the run's best one, this one included."""
        text = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        if best != self.best:
            self.best, self.told = best, f"  (best {best:.4f} at {step})"
        self._write(f"step {step}  evaluated: {text}", True)
        self.last = time.monotonic()

    def _write(self, text: str, lasting: bool) -> None:
        if self.terminal:
            sys.stderr.write(f"\r\x1b[K{text}" + ("\n" if lasting else ""))
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()
