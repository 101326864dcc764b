"""Train and fine-tune a small network: OUT [LAST [apart]]. A process of its own, alone or as torchrun starts it.

LAST: batches of the fine-tuning after which it is stopped, to be gone on with. apart: with a checkpoint each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from neuroseg import storage
from neuroseg.conversion.balance import balance
from neuroseg.conversion.convert import convert
from neuroseg.data import stack_slices
from neuroseg.training.finetune import FinetuneConfig, finetune
from neuroseg.training.loop import Step
from neuroseg.training.team import Team, assembled
from neuroseg.training.train import TrainConfig, train
from neuroseg.training.unet import UNetConfig
from tests.neuroseg.training.test_training import blobs


def weights(team: Team, checkpoint: Path, last: int | None) -> dict[str, torch.Tensor]:
    """Of the ANN and of the spiking network. Batches of 7 of 24 slices: shares differ, and the last is of 3."""
    subjects = blobs(10)
    training, validation = subjects[:8], subjects[8:]
    config = TrainConfig(epochs=2, batch=7, warm_up=2, augment=False, learning_rate=5e-3)
    ann, _ = train(training, validation, model=UNetConfig(channels=(3, 4), dropout=0.0), config=config, team=team)
    spiking = balance(convert(ann, (1, 8, 8), timesteps=4), stack_slices(training)[0])

    def stop(step: Step) -> None:
        if last is not None and (step.epoch - 1) * step.batches + step.batch > last:
            raise KeyboardInterrupt

    tuning = FinetuneConfig(epochs=3, batch=7)
    tuned, _ = finetune(spiking, training, validation, config=tuning, checkpoint=checkpoint, on_step=stop, team=team)
    found = {f"ann.{name}": value for name, value in ann.state_dict().items()}
    return found | {f"snn.{name}": value for name, value in tuned.state_dict().items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    path = Path(sys.argv[1])
    with assembled(torch.device("cpu")) as team:
        try:
            own = str(team.rank) if sys.argv[3:] else ""
            checkpoint = path.with_suffix(f".checkpoint{own}")
            found = weights(team, checkpoint, int(sys.argv[2]) if sys.argv[2:] else None)
        except KeyboardInterrupt:
            if team.size > 1:
                torch.distributed.barrier()  # gloo aborts where another leaves in the middle of a message
            sys.exit(0)
        storage.save(found, path.with_name(f"{path.stem}{team.rank}.safetensors"))
