"""Fast models of Lava's own Conv, Sparse, Dense, LIF and LIFReset: the stock models with their inner loops compiled.

For any network of stock processes, as NetX builds them: see `hardware_sim.lava_backend.fast`. Messages, timing and
every value are those of the stock models, to which is left what these do not know: graded spikes, decays of single
neurons, sums beyond 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.conv.models import PyConvModelFixed
from lava.proc.conv.process import Conv
from lava.proc.dense.models import PyDenseModelBitAcc
from lava.proc.dense.process import Dense
from lava.proc.lif.models import AbstractPyLifModelFixed, PyLifModelBitAcc, PyLifResetModelBitAcc
from lava.proc.lif.process import LIF, LIFReset
from lava.proc.sparse.models import PySparseModelBitAcc
from lava.proc.sparse.process import Sparse
from scipy import sparse

from export import graph
from export.limits import INPUT_MAX
from hardware_sim.lava_backend import kernels, neuron_kernels
from hardware_sim.lava_backend.tables import Taps, make_taps


@implements(proc=Conv, protocol=LoihiProtocol)
@requires(CPU)
@tag("fast")
class FastConv(PyConvModelFixed):
    """Event-driven: the cost follows the spikes."""

    a_buf: np.ndarray

    def __init__(self, proc_params: dict[str, Any]) -> None:
        super().__init__(proc_params)
        self.taps: Taps | None = None
        self.total = np.zeros(0, np.int16)

    def run_spk(self) -> None:
        if self.taps is None:
            if self.num_message_bits.item() > 0 or _largest_sum(self.weight) > INPUT_MAX:
                super().run_spk()
                return
            self.taps = self._taps()
            self.total = np.zeros(self.a_buf.size, np.int16)
        self.a_out.send(self.a_buf)
        spikes = np.ascontiguousarray(self.s_in.recv().astype(bool)).view(np.uint8).ravel()
        kernels.scatter(self.taps, spikes, self.total)
        self.a_buf = self.total.reshape(self.a_buf.shape).astype(np.int32)
        self.total[:] = 0

    def on_var_update(self) -> None:
        """A weight was set between two runs."""
        self.taps = None

    def _taps(self) -> Taps:
        """Lava's (out, kW, kH, in) weights of a true convolution, as PyTorch's of a correlation."""
        stride, padding, dilation = (
            (int(value[1]), int(value[0])) for value in (self.stride, self.padding, self.dilation)
        )
        weight = self.weight.transpose(0, 3, 2, 1)[:, :, ::-1, ::-1]
        op = graph.Conv(weight, stride, padding, dilation, int(self.groups[0]))
        return make_taps(op, self.s_in.shape[::-1], self.a_buf.shape[::-1])


def _matrix_step(model: Any, stock_step: Callable[[], None]) -> None:
    """Sum the columns at which spikes arrive. The stock model's first step prepares the weights."""
    if model.num_message_bits.item() > 0:
        stock_step()
        return
    if model.columns is None:
        stock_step()
        model.columns = sparse.csc_matrix(model.weights, dtype=np.int32)
        return
    model.a_out.send(model.a_buff)
    columns, exponent = model.columns, model.weight_exp
    total = np.zeros(columns.shape[0], np.int32)
    active = np.flatnonzero(model.s_in.recv())
    kernels.add_columns(columns.indptr, columns.indices, columns.data, active, total)
    model.a_buff = np.left_shift(total, exponent) if exponent > 0 else np.right_shift(total, -exponent)


@implements(proc=Sparse, protocol=LoihiProtocol)
@requires(CPU)
@tag("fast")
class FastSparse(PySparseModelBitAcc):
    columns: sparse.csc_matrix | None = None

    def on_var_update(self) -> None:
        self.columns = None

    def run_spk(self) -> None:
        _matrix_step(self, super().run_spk)


@implements(proc=Dense, protocol=LoihiProtocol)
@requires(CPU)
@tag("fast")
class FastDense(PyDenseModelBitAcc):
    columns: sparse.csc_matrix | None = None

    def on_var_update(self) -> None:
        self.columns = None

    def run_spk(self) -> None:
        _matrix_step(self, super().run_spk)


def _subthreshold(model: AbstractPyLifModelFixed, activation: np.ndarray) -> None:
    """Current and potential in one pass over memory. Decays of single neurons are left to the stock model."""
    if np.size(model.du) > 1 or np.size(model.dv) > 1:
        AbstractPyLifModelFixed.subthr_dynamics(model, activation)
        return
    arriving = np.ascontiguousarray(activation, np.int32).ravel()
    bias = np.empty(model.v.shape, np.int32)
    bias[:] = model.effective_bias
    du, dv = (int(np.squeeze(decay)) for decay in (model.du + model.ds_offset, model.dv + model.dm_offset))
    neuron_kernels.subthreshold(arriving, model.u.reshape(-1), model.v.reshape(-1), bias.reshape(-1), du, dv)


@implements(proc=LIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fast")
class FastLIF(PyLifModelBitAcc):
    def subthr_dynamics(self, activation_in: np.ndarray) -> None:
        _subthreshold(self, activation_in)


@implements(proc=LIFReset, protocol=LoihiProtocol)
@requires(CPU)
@tag("fast")
class FastLIFReset(PyLifResetModelBitAcc):
    def subthr_dynamics(self, activation_in: np.ndarray) -> None:
        _subthreshold(self, activation_in)


def _largest_sum(weight: np.ndarray) -> int:
    """Bound of any sum of some of an output channel's weights."""
    flat = weight.reshape(len(weight), -1).astype(np.int64)
    return int(max(flat.clip(min=0).sum(1).max(), -flat.clip(max=0).sum(1).min()))


FAST_MODELS = {Conv: FastConv, Sparse: FastSparse, Dense: FastDense, LIF: FastLIF, LIFReset: FastLIFReset}
