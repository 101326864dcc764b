"""The processes that train one network together, as torchrun starts them: each takes its share of every batch.

The loss is that of the whole batch, since Dice is no mean over slices: logits are gathered, gradients summed. So the
same batch gives the same weights as one process, to rounding; what is drawn (augmentation, dropout) is another draw.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

PATIENCE = timedelta(hours=2)  # of those that wait while the leading process validates
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Team:
    """This process among those of a training. device: where it computes."""

    device: torch.device = CPU
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes files and shows what is done."""
        return self.rank == 0

    def shares(self, batch: int) -> bool:
        """Whether a batch is shared out; one of fewer samples than processes each takes whole."""
        return 1 < self.size <= batch

    def share(self, samples: torch.Tensor) -> torch.Tensor:
        """This process's of a batch (B, ...)."""
        return samples[self.rank :: self.size] if self.shares(len(samples)) else samples

    def gather(self, part: torch.Tensor, batch: int) -> torch.Tensor:
        """What all have of a batch: (batch, ...), in its order; the gradient reaches this process's own."""
        if not self.shares(batch):
            return part
        most = -(-batch // self.size)
        padded = part.new_zeros(most, *part.shape[1:])
        padded[: len(part)] = part.detach()
        pieces = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(pieces, padded)
        whole = part.new_empty(batch, *part.shape[1:])
        for rank, piece in enumerate(pieces):
            own = whole[rank :: self.size]
            own.copy_(part if rank == self.rank else piece[: len(own)])
        return whole

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter], batch: int) -> None:
        """Sum the gradients of all shares of a batch, in place; of a batch that each took whole, take the leader's."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                continue
            if self.shares(batch):
                distributed.all_reduce(parameter.grad)
            else:
                distributed.broadcast(parameter.grad, src=0)

    def begin(self, state: object, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Start from the leader's weights. Raises ValueError, in all, unless all are about to do the same.

        state: what is trained, on what, and how far it is.
        """
        if self.size == 1:
            return
        states: list[object] = [None] * self.size
        distributed.all_gather_object(states, state)
        if any(other != states[0] for other in states):
            raise ValueError(
                "the processes of this training differ in data, settings or how far they are; all have to see the same "
                "data and the same run folder"
            )
        for parameter in parameters:
            distributed.broadcast(parameter.data, src=0)

    def told(self, score: Callable[[], float]) -> float:
        """A number that the leading process finds, for all."""
        if self.size == 1:
            return score()
        found = torch.tensor([score() if self.leads else 0.0], dtype=torch.float32, device=self.device)
        distributed.broadcast(found, src=0)
        return float(found)


ALONE = Team()


@contextmanager
def assembled(device: torch.device) -> Iterator[Team]:
    """The team that torchrun started this process in; alone without torchrun. A GPU each, in their order."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(device)
        return
    if device.type == "mps" or "LOCAL_RANK" not in os.environ:
        found = f"device {device.type}" if device.type == "mps" else "no LOCAL_RANK"
        raise ValueError(
            f"{size} processes (WORLD_SIZE) with {found}; as torchrun starts them, on cpu or cuda, is allowed"
        )
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Team(device, distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
