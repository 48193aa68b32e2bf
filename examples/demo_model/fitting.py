"""The training loop: AdamW with warm-up and cosine decay over packed rows."""

import math
import time
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from examples.demo_model.corpus import Rows

_IGNORED = -100
_REPORTS = 10


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn; `batch` counts rows."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int
    weight_decay: float = 0.0

    def rate_at(self, step: int) -> float:
        """Share of the learning rate at a step: linear warm-up, then cosine down to a hundredth."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def fit(model: torch.nn.Module, rows: Rows, schedule: Schedule, *, seed: int, label: str) -> None:
    """Trains the parameters of `model` that require gradients, in place, on the device where they are."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    tokens, learnt = rows.tokens.to(device), rows.learnt.to(device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=schedule.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=schedule.weight_decay,
        fused=True,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate_at)
    model.train()
    started = time.monotonic()
    order = torch.empty(0, dtype=torch.int64)
    for step in range(schedule.steps):
        if len(order) < schedule.batch:
            order = torch.cat([order, torch.randperm(len(tokens), generator=generator)])
        picked, order = order[: schedule.batch].to(device), order[schedule.batch :]
        ids = tokens[picked].long()  # [batch, length]
        labels = ids.masked_fill(~learnt[picked], _IGNORED)
        logits = model(input_ids=ids, use_cache=False).logits  # [batch, length, vocab]
        loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=_IGNORED)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        if (step + 1) % max(1, schedule.steps // _REPORTS) == 0:
            seconds = time.monotonic() - started
            print(f"{label}: step {step + 1}/{schedule.steps}, loss {loss.item():.5f}, {seconds:.0f} s", flush=True)
    model.eval()
