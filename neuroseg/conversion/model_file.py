"""A model out of a file: a program of `torch.export.save` (.pt2), or an ONNX file where its reader is installed."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from export.graph import Shape
from neuroseg.conversion.calls import ProgramError
from neuroseg.conversion.program import read_program

PT2, ONNX = ".pt2", ".onnx"
MAX_BYTES = 2**31
ADVICE = "torch.export.save(torch.export.export(model.eval(), (image,)), 'model.pt2') writes one of any PyTorch model"


def read_model(path: Path, shape: Shape) -> nn.Module:
    """The model in a file, for images (C, H, W); nothing in it can run code. Raises FileNotFoundError, ProgramError."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == PT2:
        program = read_program(path)
        try:
            program.check(shape)
        except ProgramError as error:
            raise ProgramError(f"{path}: {error}") from error
        return program
    if path.suffix == ONNX:
        return _read_onnx(path)
    raise ProgramError(f"{path}: a name that ends in {PT2} or {ONNX} is allowed; {ADVICE}")


class _Named(nn.Module):
    """A model whose parameters have names without signs that paths have, for the layers that are named after them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images)

    def named_parameters(self, *arguments, **options):
        for name, parameter in super().named_parameters(*arguments, **options):
            yield name.removeprefix("model.").replace("/", "_"), parameter


def _read_onnx(path: Path) -> nn.Module:
    """By onnx and onnx2pytorch: protobuf and PyTorch's layers, which run none of the file's own code."""
    try:
        import onnx  # noqa: PLC0415 - an extra
        from onnx2pytorch import ConvertModel  # noqa: PLC0415
    except ImportError:
        raise ProgramError(
            f"{path}: ONNX is read by onnx2pytorch, which is not here: pip install 'neuroseg[onnx]'. Without: {ADVICE}"
        ) from None
    if path.stat().st_size > MAX_BYTES:
        raise ProgramError(f"{path}: {path.stat().st_size} bytes; {MAX_BYTES} are allowed")
    try:
        return _Named(ConvertModel(onnx.load(path))).eval()
    except Exception as error:  # it raises whatever a file makes it do
        raise ProgramError(f"{path}: onnx2pytorch cannot read it: {str(error)[:300]}. Instead: {ADVICE}") from error
