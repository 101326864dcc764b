"""Conversion, balancing, the spiking module, fine-tuning, and the files of a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hardware_sim
from export.lower import export, integer_scales
from neuroseg import runs, spiking, synapse
from neuroseg.activity import measure
from neuroseg.balance import Rates, balance
from neuroseg.convert import ConversionError, convert
from neuroseg.data import stack_slices
from neuroseg.encode import encode
from neuroseg.finetune import FinetuneConfig, finetune
from neuroseg.metrics import mean_dice
from neuroseg.spec import DropoutSpec, SynapseSpec
from neuroseg.spiking import SpikingNetwork
from neuroseg.tracing import results
from neuroseg.train import TrainConfig, predict, train
from neuroseg.unet import UNet, UNetConfig
from tests.neuroseg.test_training import Killed, blobs

SHAPE = (1, 12, 8)


@pytest.fixture(scope="module")
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(channels=(4, 6, 8))).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_the_analog_network_is_the_ann(unet, images):
    torch.testing.assert_close(convert(unet, SHAPE).analog(images)["head"], unet(images))


def test_every_relu_becomes_a_population(unet):
    spec = convert(unet, SHAPE).spec
    firing = [p.name for p in spec.populations if p.fires]
    assert firing[:2] == ["enc_0_conv1", "enc_0_conv2"] and len(firing) == 12
    assert spec.output.name == "head"


class Sum(nn.Module):
    """A residual block whose addition comes before the ReLU."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Conv2d(1, 2, 3, padding=1, bias=False) for _ in range(2))
        self.c = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.head = nn.Conv2d(2, 1, 1, bias=False)

    def forward(self, x):
        y = torch.relu(self.a(x))
        return self.head(torch.relu(self.b(x) + self.c(y)))


def test_sums_of_currents_are_two_synapses(images):
    torch.manual_seed(0)
    model = Sum()
    network = convert(model, SHAPE)
    torch.testing.assert_close(network.analog(images)["head"], model(images))
    assert max(len(p.synapses) for p in network.spec.populations) == 2


def test_a_shared_layer_becomes_two_populations(images):
    """The same convolution read twice: names stay unique, and so do weights."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(1, 2, 3, padding=1, bias=False)
            self.b, self.head = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False)

        def forward(self, x):
            p, q = self.a(x), self.b(torch.relu(self.a(x)))
            return self.head(torch.relu(p + q))

    model = Shared()
    network = convert(model, SHAPE)
    torch.testing.assert_close(network.analog(images)["head"], model(images))
    assert len({layer.name for layer in network.spec.layers}) == len(network.spec.layers)
    assert model.training


def sequential(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Conv2d(4, 1, 1, bias=False))


CONV, RELU = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU()
REFUSED = {
    "max pooling": (sequential(CONV, RELU, nn.MaxPool2d(2)), r"\(after _?0\): max_pool2d.*; use AvgPool2d"),
    "sigmoid": (sequential(CONV, nn.Sigmoid()), "sigmoid has no spiking counterpart; end with the logits"),
    "leaky ReLU": (sequential(CONV, nn.LeakyReLU()), "leaky_relu .*; use ReLU"),
    "group norm": (sequential(CONV, nn.GroupNorm(2, 4)), "native_group_norm .*; use BatchNorm2d"),
    "no ReLU between": (sequential(CONV, nn.Conv2d(4, 4, 3, bias=False), RELU), "1 takes spikes; put a ReLU before it"),
    "batch norm of spikes": (sequential(CONV, RELU, nn.BatchNorm2d(4)), "BatchNorm2d on spikes; put it after a conv"),
    "pooling a current": (sequential(CONV, nn.AvgPool2d(2), RELU), "pools spikes; put it after the ReLU"),
    "overlapping pooling": (sequential(CONV, RELU, nn.AvgPool2d(3, stride=2)), r"pooling of kernel \(3, 3\), stride"),
    "odd pooling": (sequential(CONV, RELU, nn.AvgPool2d(5)), "pooling .* does not divide"),
    "uneven pooling": (sequential(CONV, RELU, nn.AdaptiveAvgPool2d(5)), r"pooling \(12, 8\) to \(5, 5\) is uneven"),
    "circular padding": (
        sequential(nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular", bias=False), RELU),
        "has no spiking counterpart",
    ),
    "bilinear": (sequential(CONV, RELU, nn.Upsample(scale_factor=2, mode="bilinear")), "use mode='nearest'"),
    "stride after upsampling": (
        nn.Sequential(CONV, RELU, nn.Upsample(scale_factor=2), nn.Conv2d(4, 1, 3, stride=2, bias=False)),
        "reads an Upsample; stride 1",
    ),
    "padding": (sequential(CONV, RELU, nn.ReplicationPad2d(1)), "use the convolution's zero padding"),
    "a spiking end": (nn.Sequential(CONV, RELU), "end with a convolution"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_spike_is_refused_by_name(name):
    model, reason = REFUSED[name]
    with pytest.raises(ConversionError, match=reason):
        convert(model, SHAPE)


def test_control_flow_is_refused():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ConversionError, match="Branch cannot be traced"):
        convert(Branch(), SHAPE)


def test_a_model_that_reads_more_than_its_input_is_refused():
    class Counting(nn.Module):
        """Its second call is not its first."""

        def __init__(self):
            super().__init__()
            self.conv, self.calls = nn.Conv2d(1, 1, 3, padding=1, bias=False), 0

        def forward(self, x):
            self.calls += 1
            return self.conv(x) if self.calls == 1 else self.conv(x) + self.conv(x)

    with pytest.raises(ConversionError, match="Counting: the converted network differs from the model by up to"):
        convert(Counting(), SHAPE)


class Uses(nn.Module):
    """Two convolutions, and whatever a function makes of them."""

    def __init__(self, use):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
        self.weight, self.use = nn.Parameter(torch.ones(4 * 12 * 8, 2)), use

    def forward(self, x):
        return self.use(self, torch.relu(self.a(x)))


USES = {
    "a mean over everything": lambda m, h: m.b(h) - m.b(h).mean(),
    "a bare matrix": lambda m, h: h.flatten(1) @ m.weight,
    "a detached weight": lambda m, h: F.conv2d(h, m.b.weight.detach()),
    "a reshaped weight": lambda m, h: F.conv2d(h, m.b.weight.view(1, 4, 1, 1)),
    "a ReLU of a weight": lambda m, h: F.conv2d(h, torch.relu(m.b.weight)),
    "an output that is none": lambda m, h: (m.b(h), None),
    "flattened layers joined": lambda m, h: torch.cat([h.flatten(1), h.flatten(1)], 1) @ torch.ones(768, 2),
    "flattened layers added": lambda m, h: (h.flatten(1) + h.flatten(1)) @ m.weight,
}


@pytest.mark.parametrize("name", USES)
def test_strange_uses_are_refused_and_never_crash(name):
    with pytest.raises(ConversionError):
        convert(Uses(USES[name]), SHAPE)


def test_one_and_three_axes_are_refused():
    with pytest.raises(ConversionError, match="a convolution over 3 axes; two are supported"):
        convert(nn.Conv3d(1, 2, 1), (1, 4, 4, 4))


def test_conversion_leaves_the_models_modes_and_takes_any_names():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.values, self.keys = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 1, 3)

        def forward(self, x):
            return self.keys(torch.relu(self.values(x)))

    model = Named().train()
    model.keys.eval()
    network = convert(model, SHAPE)
    assert model.training and model.values.training and not model.keys.training
    assert set(network.biases) == {"values:bias", "keys:bias"}


class Residual(nn.Module):
    """Batch norm, biases, an identity skip, a projected one, a sum of spikes, pooling in three styles, a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.one, self.two = (nn.Conv2d(4, 4, 3, padding=1, groups=2) for _ in range(2))
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.down, self.project = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 6, 1, stride=2, bias=False)
        self.drop, self.pool = nn.Dropout2d(0.2), nn.AdaptiveAvgPool2d(1)
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 3, bias=False)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu(self.one(x))
        y = self.norm(self.two(y))
        y += x
        y = self.drop(y.relu_())
        z = torch.relu(self.down(y) + self.project(x + y))
        return self.head(torch.relu(self.hidden(self.pool(z).view(z.size(0), -1))))


class Enlarging(nn.Module):
    """Nearest upsampling before convolutions, alone and joined with a skip, added, and two outputs."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, (3, 1), padding=(1, 0))
        self.side, self.joined = nn.Conv2d(4, 3, 2), nn.Conv2d(7, 3, (5, 3), padding=(2, 1), bias=False)
        self.norm, self.head, self.coarse_head = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        fine = F.relu(self.fine(x))
        coarse = torch.relu(self.coarse(F.avg_pool2d(fine, 2)))
        up = F.interpolate(coarse, scale_factor=2, mode="nearest")
        joined = torch.relu(self.norm(self.joined(torch.cat([fine, up], 1))))
        return {"fine": self.head(joined + fine), "coarse": [self.coarse_head(coarse), self.side(up)]}


class Pooled(nn.Module):
    """A pooled layer added to what is made of it, and padding that pads nothing, as in MONAI and torchvision."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        x = F.avg_pool2d(torch.relu(self.a(x)), 2)
        x = torch.relu(self.b(x) + x)
        return self.head(F.pad(x, [0, x.shape[-1] % 2, 0, 0], "replicate"))


MODELS = [Residual(), Enlarging(), Pooled()]


def trained(model: nn.Module) -> nn.Module:
    """With running statistics and offsets that are not their defaults."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.eval()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_other_architectures_become_the_same_ann(model, images):
    network = convert(trained(model), SHAPE)
    analog = network.analog(images)
    for expected, population in zip(results(model(images)), network.spec.outputs, strict=True):
        torch.testing.assert_close(analog[population.name].reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
    assert any(population.biased for population in network.spec.populations)


@pytest.mark.parametrize("method", ["rate", "activation", "threshold"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_other_architectures_are_the_same_in_every_integer(model, method, images):
    """Balanced, exported, and run by the reference engine: PyTorch's spikes and potentials, biases included."""
    network = balance(convert(trained(model), SHAPE, timesteps=5), images, method=method)
    network = network.with_scales(integer_scales(network))
    spikes = encode(images, timesteps=5)
    activity = network.record(spikes, quantized=True)
    graph = export(network)
    bits = spikes.transpose(0, 1).numpy().astype(np.uint8)
    trace = hardware_sim.run(graph, bits, record=hardware_sim.Record(potentials="all"))
    for population in network.spec.populations:
        name = population.name
        expected = activity.potentials[name].transpose(0, 1).numpy() * 2**6
        assert (trace.potentials[name] == expected).all(), name
        if population.fires:
            assert (trace.spikes[name] == activity.spikes[name].transpose(0, 1).numpy()).all(), name
    assert max(float(fired.mean()) for fired in activity.spikes.values()) > 0.02


def test_activation_balancing_approaches_the_ann_with_time(unet, images):
    errors = []
    for timesteps in (16, 256):
        network = balance(convert(unet, SHAPE, timesteps=timesteps), images, method="activation", percentile=100)
        output = network(encode(images, timesteps=timesteps)) / network.logit_scale
        reference = unet(images)
        errors.append(1 - float(torch.corrcoef(torch.stack([output.flatten(), reference.flatten()]))[0, 1]))
    assert errors[1] < 0.02 < errors[0]


def test_rate_balancing_reaches_its_rates(unet, images):
    network = balance(convert(unet, SHAPE), images, rates=[Rates(0.15, (0.2, 0.25))])
    rates = list(measure(network, images).rates.values())
    np.testing.assert_allclose(rates, [0.15] * 10 + [0.2, 0.25], atol=0.01)


def test_threshold_balancing_divides_by_the_largest_input(unet, images):
    before = convert(unet, SHAPE)
    after = balance(before, images, method="threshold")
    spikes = encode(images, timesteps=8)
    first = before.spec.populations[0]
    largest = float(before.currents(first, {"input": spikes}).max())
    torch.testing.assert_close(
        after.weights["enc_0_conv1:0"] * largest, before.weights["enc_0_conv1:0"], rtol=1e-5, atol=1e-7
    )


def test_balancing_leaves_its_input_alone(unet, images):
    network = convert(unet, SHAPE)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    balance(network, images)
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    with pytest.raises(ValueError, match="'magic' is unknown"):
        balance(network, images, method="magic")


def test_dropout_has_one_mask_for_all_steps(unet):
    network = convert(unet, SHAPE).train()
    values = network.walk(
        torch.ones(8, 2, *SHAPE), lambda population, values: torch.ones_like(network.currents(population, values))
    )
    masks = [values[layer.name] for layer in network.spec.layers if isinstance(layer, DropoutSpec)]
    assert masks and all((mask == mask[:1]).all() for mask in masks)
    assert any((mask == 0).any() for mask in masks)


SYNAPSES = {
    "conv": SynapseSpec("x", "conv", 4, 6, (3, 2), (2, 1), (1, 0), dilation=(1, 2), groups=2),
    "convT": SynapseSpec("x", "convT", 4, 6, (3, 2), (2, 1), (1, 0), (1, 0), groups=2),
}


def _plain(x, weight, s):
    if s.kind == "conv":
        return F.conv2d(x, weight, None, s.stride, s.padding, s.dilation, s.groups)
    return F.conv_transpose2d(x, weight, None, s.stride, s.padding, s.output_padding, s.groups, s.dilation)


@pytest.mark.parametrize("bytes_are_fast", sorted({False, synapse.bytes_are_fast()}))
@pytest.mark.parametrize("kind", SYNAPSES)
def test_synapse_on_counts_is_exact_and_has_the_gradient_of_torchs(kind, bytes_are_fast, monkeypatch):
    monkeypatch.setattr(synapse, "bytes_are_fast", lambda: bytes_are_fast)
    generator = torch.Generator().manual_seed(0)
    s = SYNAPSES[kind]
    x = torch.randint(0, 128, (3, 4, 7, 6), generator=generator).float().requires_grad_()
    weight = 2.0 * torch.randint(-128, 128, synapse.weight_shape(s), generator=generator)
    weight.requires_grad_()
    plain = _plain(x, weight, s)
    kept = synapse.to_bytes(x.detach())
    assert torch.equal(synapse.apply_to_counts(kept, weight.detach(), s, whole=True), plain)
    up = torch.randn(plain.shape, generator=generator)
    expected = torch.autograd.grad(plain, (x, weight), up)
    ours = synapse.gradients(up, kept, weight.detach(), s, wanted=(True, True))
    torch.testing.assert_close(ours, expected)
    low = synapse.gradients(up.bfloat16(), kept, weight.detach(), s, wanted=(True, True))
    assert low[0].dtype == torch.bfloat16 and low[1].dtype == torch.float32
    for coarse, fine in zip(low, expected, strict=True):
        assert float((coarse - fine).norm() / fine.norm()) < 0.01


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_fused_populations_spike_as_currents_and_neurons_apart(unet, images, quantized, precision, mode, monkeypatch):
    """The byte-wise step against plain float64 autograd of the same network: same potentials, nearly same gradient."""
    monkeypatch.setattr(spiking, "spike_dtype", lambda device: precision)
    network = balance(convert(unet, SHAPE), images)
    network = network.with_scales(integer_scales(network)).train(mode == "train")
    spikes = encode(images, timesteps=8)

    def run(x):
        torch.manual_seed(0)  # dropout masks
        network.zero_grad()
        out = network(x, quantized=quantized)
        out.square().mean().backward()
        return out.detach(), torch.cat([w.grad.flatten() for w in network.weights.values()])

    (fused, gradient), (plain, expected) = run(spikes), run(spikes.double())
    if mode == "eval" and quantized:
        torch.testing.assert_close(fused, plain.float())  # integer potentials, and one rounding of their scale
    assert float((fused - plain).norm() / plain.norm()) < 0.2  # rounding may move a spike
    similarity = F.cosine_similarity(gradient.double(), expected.double(), dim=0)
    assert float(similarity) > 0.98


def test_dropout_keeps_the_mean_current(unet):
    """Survivors gain 1/(1-p), as in torch, though the gain is in the weights."""
    network = convert(UNet(UNetConfig(channels=(4, 6), dropout=0.5)), SHAPE)
    population = network.spec.populations[1]
    source = population.synapses[0].source
    ones = torch.ones(1, 500, 4, 12, 8)
    full = network.eval().currents(population, {source: ones}).mean()
    halved = network.train().currents(population, {source: ones * (torch.rand(1, 500, 4, 1, 1) < 0.5)}).mean()
    assert float(halved) == pytest.approx(float(full), rel=0.15)


def test_spikes_must_be_spikes(unet):
    with pytest.raises(ValueError, match=r"range from 0 to 0\.5; 0 and 1 are allowed"):
        convert(unet, SHAPE)(torch.tensor([0.0, 0.5]).view(1, 2, 1, 1, 1).expand(8, 2, *SHAPE))


def test_integer_weights_are_even_and_need_scales(unet):
    network = convert(unet, SHAPE)
    population = network.spec.populations[0]
    with pytest.raises(ValueError, match="no integer scale"):
        network.integer_weight(population, 0)
    scaled = network.with_scales(integer_scales(network))
    for p in scaled.spec.populations:
        for k in range(len(p.synapses)):
            weight = scaled.integer_weight(p, k)
            assert (weight % 2 == 0).all() and weight.min() >= -256 and weight.max() <= 254


def test_zero_reset_has_no_start_potential(unet):
    with pytest.raises(ValueError, match="stock Lava neurons start from 0"):
        convert(unet, SHAPE, reset="zero", u0=0.5)


@pytest.fixture(scope="module")
def small() -> SpikingNetwork:
    subjects = blobs(20)
    config = TrainConfig(epochs=25, batch=8, warm_up=20, learning_rate=5e-3)
    ann, _ = train(subjects[:16], subjects[16:], model=UNetConfig(channels=(3, 4), dropout=0.1), config=config)
    return balance(convert(ann, (1, 8, 8), timesteps=4), stack_slices(subjects[:6])[0])


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_finetuning_through_integers_repairs_a_disturbed_network(small, reset):
    subjects = blobs(16)
    disturbed = small.copy(reset=reset)
    generator = torch.Generator().manual_seed(0)
    for weight in disturbed.weights.values():
        weight.data.mul_(1 + 1.2 * torch.randn(weight.shape, generator=generator))
    disturbed = disturbed.with_scales(integer_scales(disturbed))
    truths = [s.mask for s in subjects[12:]]
    before = mean_dice(predict(lambda x: disturbed.predict(x, quantized=True), subjects[12:]), truths)["3d"]
    tuned, history = finetune(
        disturbed,
        subjects[:12],
        subjects[12:],
        choose_scales=integer_scales,
        config=FinetuneConfig(epochs=25, batch=8, learning_rate=4e-3),
    )
    after = mean_dice(predict(lambda x: tuned.predict(x, quantized=True), subjects[12:]), truths)["3d"]
    assert after == pytest.approx(max(row.validation_dice for row in history))
    assert after > before + 0.1
    assert integer_scales(tuned) == {p.name: tuned.scale(p) for p in tuned.spec.populations}


def test_a_killed_finetuning_resumes_to_the_same_network(small, tmp_path):
    subjects, config = blobs(6), FinetuneConfig(epochs=3, batch=5)
    arguments = {"choose_scales": integer_scales, "config": config}
    whole, _ = finetune(small, subjects[:4], subjects[4:], **arguments)

    def kill(step):
        if step.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        finetune(small, subjects[:4], subjects[4:], checkpoint=tmp_path / "c", on_step=kill, **arguments)
    resumed, _ = finetune(small, subjects[:4], subjects[4:], checkpoint=tmp_path / "c", **arguments)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))


def test_finetuning_through_integers_needs_scales(small):
    with pytest.raises(ValueError, match="needs choose_scales"):
        finetune(small, blobs(1), blobs(1))


def test_networks_survive_their_files(small, unet, tmp_path):
    runs.save_snn(small, tmp_path / "snn.pt", notes={"balance": "rate"})
    loaded, notes = runs.load_snn(tmp_path / "snn.pt")
    assert loaded.spec == small.spec and notes == {"balance": "rate"}
    spikes = (torch.rand(4, 2, 1, 8, 8) < 0.5).float()
    assert torch.equal(loaded(spikes), small(spikes))
    runs.save_ann(unet, [], tmp_path / "ann.pt")
    image = torch.rand(1, *SHAPE)
    assert torch.equal(runs.load_ann(tmp_path / "ann.pt")(image), unet(image))


def test_broken_run_files_are_named(tmp_path):
    with pytest.raises(runs.RunError, match=r"ann\.pt: no such file; `neuroseg train`"):
        runs.load_ann(tmp_path / "ann.pt")
    (tmp_path / "ann.pt").write_bytes(b"PK nonsense")
    with pytest.raises(runs.RunError, match="cannot be read"):
        runs.load_ann(tmp_path / "ann.pt")
    with pytest.raises(runs.RunError, match=r"run\.json: no such file"):
        runs.Run(tmp_path).load_settings()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(runs.RunError, match="not the settings of a run"):
        runs.Run(tmp_path).load_settings()
