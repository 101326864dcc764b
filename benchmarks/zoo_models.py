"""Public networks as their libraries make them: no activation, norm or pooling is changed, no weights are downloaded.

Only what the constructors demand is given: two dimensions, channels in and out, widths where there is no default; what
else was chosen, `name` says. A default of more than 60 million parameters is left out or made smaller. Images have
64 x 64 pixels, 32 x 32 for small networks, and more only where the network refuses them, or where an adaptive pooling
would make more pixels than it gets. Weights are random.

The packages of `benchmarks/zoo.txt` lie in FOLDER, which goes to the end of sys.path, so that torch, torchvision and
numpy stay those of the environment:

    pip install --no-deps --target benchmarks/.zoo -r benchmarks/zoo.txt
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

FOLDER = Path(__file__).with_name(".zoo")


@dataclass(frozen=True)
class Model:
    """input_shape: (C, H, W). make: builds it, in training mode, with random weights."""

    library: str
    name: str
    input_shape: tuple[int, int, int]
    make: Callable[[], nn.Module]


def nnunet(name: str, **blocks: Any) -> Model:
    """As nnU-Net plans for images of 32 x 32: halved until an edge has four pixels, features doubled."""

    def make() -> nn.Module:
        from dynamic_network_architectures.architectures import unet

        network: nn.Module = getattr(unet, name)(
            input_channels=1,
            n_stages=4,
            features_per_stage=(32, 64, 128, 256),
            conv_op=nn.Conv2d,
            kernel_sizes=3,
            strides=(1, 2, 2, 2),
            num_classes=2,
            conv_bias=True,
            norm_op=nn.InstanceNorm2d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            **blocks,
        )
        return network

    return Model("nnU-Net", name, (1, 32, 32), make)


def monai(name: str, *, suffix: str = "", size: int = 64, image_channels: int = 1, **arguments: Any) -> Model:
    def make() -> nn.Module:
        from monai.networks import nets

        network: nn.Module = getattr(nets, name)(**arguments)
        return network

    return Model("MONAI", name + suffix, (image_channels, size, size), make)


def smp(architecture: str, encoder: str = "resnet18", *, size: int = 64) -> Model:
    def make() -> nn.Module:
        import segmentation_models_pytorch

        network: nn.Module = getattr(segmentation_models_pytorch, architecture)(encoder, encoder_weights=None)
        return network

    return Model("segmentation_models_pytorch", f"{architecture}, {encoder}", (3, size, size), make)


def torchvision(name: str, *, suffix: str = "", size: int = 64, **arguments: Any) -> Model:
    def make() -> nn.Module:
        from torchvision import models

        network: nn.Module = getattr(models, name)(**arguments)
        return network

    return Model("torchvision", name + suffix, (3, size, size), make)


def torchvision_features(name: str) -> Model:
    """All but the classifier, whose first layer alone has 103 million parameters."""

    def make() -> nn.Module:
        from torchvision import models

        features: nn.Module = getattr(models, name)().features
        return features

    return Model("torchvision", f"{name}, features", (3, 64, 64), make)


def torchvision_segmentation(name: str) -> Model:
    def make() -> nn.Module:
        from torchvision.models import segmentation

        network: nn.Module = getattr(segmentation, name)(weights_backbone=None)
        return network

    return Model("torchvision", name, (3, 64, 64), make)


def timm(name: str, *, size: int = 64, **arguments: Any) -> Model:
    def make() -> nn.Module:
        import timm

        network: nn.Module = timm.create_model(name, **arguments)
        return network

    return Model("timm", name, (3, size, size), make)


def paper(name: str, input_shape: tuple[int, int, int], make: Callable[[], nn.Module]) -> Model:
    """Written below as its paper says."""
    return Model("paper", name, input_shape, make)


def conv_relu(widths: Sequence[int], *, kernel: int = 3, norm: bool = False) -> nn.Sequential:
    """Convolutions that keep the size, each with a ReLU, from widths[0] channels to widths[-1]."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers.append(nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def lenet5() -> nn.Module:
    """LeCun et al. 1998, with ReLU and max pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def all_cnn() -> nn.Module:
    """Springenberg et al. 2015, All-CNN-C."""
    return nn.Sequential(
        nn.Dropout(0.2),
        conv_relu((3, 96, 96)),
        nn.Conv2d(96, 96, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Dropout(0.5),
        conv_relu((96, 192, 192)),
        nn.Conv2d(192, 192, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(192, 192, 3),
        nn.ReLU(),
        conv_relu((192, 192, 10), kernel=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def network_in_network() -> nn.Module:
    """Lin et al. 2014, for CIFAR-10."""
    return nn.Sequential(
        conv_relu((3, 192), kernel=5),
        conv_relu((192, 160, 96), kernel=1),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Dropout(0.5),
        conv_relu((96, 192), kernel=5),
        conv_relu((192, 192, 192), kernel=1),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Dropout(0.5),
        conv_relu((192, 192), kernel=3),
        conv_relu((192, 192, 10), kernel=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def mobilenet(multiplier: float) -> nn.Module:
    """Howard et al. 2017."""
    widths = [int(width * multiplier) for width in (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)]
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(widths[0]), nn.ReLU()]
    for (before, after), stride in zip(pairwise(widths), strides, strict=True):
        layers.append(nn.Conv2d(before, before, 3, stride=stride, padding=1, groups=before, bias=False))
        layers += [nn.BatchNorm2d(before), nn.ReLU()]
        layers += [nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1000))


class Residual(nn.Module):
    """Two convolutions and a shortcut without weights: every second pixel, and channels of zeros."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride, self.missing = stride, after - before
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        if self.missing:
            half = self.missing // 2
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))
        return F.relu(self.body(x) + shortcut)


def resnet20() -> nn.Module:
    """He et al. 2016, for CIFAR-10, shortcut A."""
    widths = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)
    blocks = [Residual(a, b, stride=1 if a == b else 2) for a, b in pairwise(widths)]
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(conv_relu((3, 16), norm=True), *blocks, *pooled)


class PaddedUNet(nn.Module):
    """Ronneberger et al. 2015, with padding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(conv_relu((a, b, b)) for a, b in zip((1, *widths[:3]), widths[:4], strict=True))
        self.bottom = nn.Sequential(conv_relu((widths[3], widths[4], widths[4])), nn.Dropout(0.5))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.joined = nn.ModuleList(conv_relu((a, b, b)) for a, b in pairs)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, block, skip in zip(self.up, self.joined, reversed(skips), strict=True):
            x = block(torch.cat([skip, up(x)], dim=1))
        return self.head(x)


class BilinearUNet(nn.Module):
    """The U-Net that is written most: batch norm, bilinear upsampling, padded to the skip's size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 8 * width, 8 * width)
        self.first = conv_relu((3, width, width), norm=True)
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), conv_relu((a, b, b), norm=True)) for a, b in pairwise(widths)
        )
        after = (4 * width, 2 * width, width, width)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.joined = nn.ModuleList(
            conv_relu((2 * skip, skip, b), norm=True) for skip, b in zip(widths[-2::-1], after, strict=True)
        )
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.first(x)]
        for block in self.down:
            skips.append(block(skips[-1]))
        x = skips.pop()
        for block, skip in zip(self.joined, reversed(skips), strict=True):
            x = self.upsample(x)
            rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            x = block(torch.cat([skip, x], dim=1))
        return self.head(x)


# Widths, in that of the first layer.
VGG16: tuple[tuple[int, ...], ...] = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


def segnet(width: int) -> nn.Module:
    """Badrinarayanan et al. 2017, with nearest upsampling instead of max unpooling."""
    layers: list[nn.Module] = []
    before = 3
    for stage in VGG16:
        layers += [conv_relu((before, *(width * factor for factor in stage)), norm=True), nn.MaxPool2d(2)]
        before = width * stage[-1]
    for stage, after in zip(VGG16[::-1], (8, 4, 2, 1, 1), strict=True):
        layers += [nn.Upsample(scale_factor=2, mode="nearest")]
        layers += [conv_relu((*(width * factor for factor in stage), width * after), norm=True)]
    return nn.Sequential(*layers, nn.Conv2d(width, 12, 3, padding=1))


class FCN8s(nn.Module):
    """Long et al. 2015, with padding."""

    def __init__(self, width: int, classes: int = 21) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        before = 3
        for stage in VGG16:
            convs = conv_relu((before, *(width * factor for factor in stage)))
            self.stages.append(nn.Sequential(convs, nn.MaxPool2d(2, ceil_mode=True)))
            before = width * stage[-1]
        self.fc6 = nn.Sequential(conv_relu((before, 64 * width), kernel=7), nn.Dropout2d(0.5))
        self.fc7 = nn.Sequential(conv_relu((64 * width, 64 * width), kernel=1), nn.Dropout2d(0.5))
        self.scores = nn.ModuleList(nn.Conv2d(n * width, classes, 1) for n in (64, 8, 4))
        self.up2 = nn.ModuleList(
            nn.ConvTranspose2d(classes, classes, 4, stride=2, padding=1, bias=False) for _ in range(2)
        )
        self.up8 = nn.ConvTranspose2d(classes, classes, 16, stride=8, padding=4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = []
        for stage in self.stages:
            x = stage(x)
            pooled.append(x)
        x = self.scores[0](self.fc7(self.fc6(x)))
        x = self.up2[0](x) + self.scores[1](pooled[3])
        x = self.up2[1](x) + self.scores[2](pooled[2])
        return self.up8(x)


class DnCNN(nn.Module):
    """Zhang et al. 2017, 17 layers: what is found is the noise."""

    def __init__(self) -> None:
        super().__init__()
        inner = conv_relu((64,) * 16, norm=True)
        self.noise = nn.Sequential(conv_relu((1, 64)), inner, nn.Conv2d(64, 1, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.noise(x)


class VDSR(nn.Module):
    """Kim et al. 2016, 20 layers: what is found is the detail."""

    def __init__(self) -> None:
        super().__init__()
        self.detail = nn.Sequential(conv_relu((1, *(64,) * 19)), nn.Conv2d(64, 1, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.detail(x)


def srcnn() -> nn.Module:
    """Dong et al. 2016, 9-1-5."""
    return nn.Sequential(conv_relu((1, 64), kernel=9), conv_relu((64, 32), kernel=1), nn.Conv2d(32, 1, 5, padding=2))


def espcn() -> nn.Module:
    """Shi et al. 2016, three times larger."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, padding=2),
        nn.Tanh(),
        nn.Conv2d(64, 32, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(32, 9, 3, padding=1),
        nn.PixelShuffle(3),
    )


PLAIN_2D: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
LEVELS: dict[str, Any] = {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)}
HALVED: dict[str, Any] = {"in_shape": (1, 32, 32), "channels": (8, 16, 32), "strides": (2, 2, 2)}
TINY_VIT: dict[str, Any] = {"hidden_size": 192, "mlp_dim": 768, "num_heads": 3}

MODELS: tuple[Model, ...] = (
    nnunet("PlainConvUNet", n_conv_per_stage=2, n_conv_per_stage_decoder=2),
    nnunet("ResidualEncoderUNet", n_blocks_per_stage=(1, 3, 4, 6), n_conv_per_stage_decoder=1),
    monai("UNet", **PLAIN_2D, **LEVELS),
    monai("UNet", suffix=", two residual units", num_res_units=2, **PLAIN_2D, **LEVELS),
    monai("UNet", suffix=", batch norm", norm="BATCH", **PLAIN_2D, **LEVELS),
    monai("BasicUNet", spatial_dims=2),
    monai("BasicUNetPlusPlus", spatial_dims=2),
    monai("DynUNet", kernel_size=(3,) * 4, strides=(1, 2, 2, 2), upsample_kernel_size=(2,) * 3, **PLAIN_2D),
    monai("SegResNet", spatial_dims=2),
    monai("SegResNetDS", spatial_dims=2),
    monai("AttentionUnet", **PLAIN_2D, **LEVELS),
    monai("VNet", spatial_dims=2, dropout_dim=2),
    monai("HighResNet", spatial_dims=2),
    monai(
        "FlexibleUNet",
        suffix=", efficientnet-b0",
        image_channels=3,
        in_channels=3,
        out_channels=2,
        backbone="efficientnet-b0",
    ),
    monai("FlexibleUNet", suffix=", resnet18", image_channels=3, in_channels=3, out_channels=2, backbone="resnet18"),
    monai("AutoEncoder", channels=(16, 32, 64), strides=(2, 2, 2), **PLAIN_2D),
    monai("VarAutoEncoder", size=32, spatial_dims=2, out_channels=1, latent_size=8, **HALVED),
    monai("Classifier", size=32, classes=2, **HALVED),
    monai("Discriminator", size=32, **HALVED),
    monai("Critic", size=32, **HALVED),
    monai("Regressor", size=32, out_shape=(1,), **HALVED),
    monai("PatchDiscriminator", spatial_dims=2, channels=16, in_channels=1),
    monai("DenseNet121", **PLAIN_2D),
    monai(
        "EfficientNetBN", suffix=", efficientnet-b0", image_channels=3, model_name="efficientnet-b0", pretrained=False
    ),
    monai("resnet10", image_channels=3, spatial_dims=2),
    monai("resnet18", image_channels=3, spatial_dims=2),
    monai("SEResNet50", image_channels=3, spatial_dims=2, in_channels=3),
    monai("MedNeXtS", spatial_dims=2),
    monai("Quicknat"),
    monai("AHNet", spatial_dims=2, size=128),
    monai("RegUNet", spatial_dims=2, in_channels=1, num_channel_initial=8, depth=3, out_channels=2),
    monai("SwinUNETR", **PLAIN_2D),
    monai("UNETR", suffix=", tiny", img_size=64, **PLAIN_2D, **TINY_VIT),
    monai("ViT", suffix=", tiny", in_channels=1, img_size=64, patch_size=16, spatial_dims=2, **TINY_VIT),
    smp("Unet"),
    smp("UnetPlusPlus"),
    smp("Linknet"),
    smp("FPN"),
    smp("PSPNet"),
    smp("PAN", size=128),
    smp("MAnet"),
    smp("DeepLabV3"),
    smp("DeepLabV3Plus"),
    smp("UPerNet", size=192),
    smp("Segformer"),
    smp("Segformer", "mit_b0"),
    smp("Unet", "vgg11_bn"),
    smp("Unet", "vgg13"),
    smp("Unet", "densenet121"),
    smp("Unet", "mobilenet_v2"),
    smp("Unet", "efficientnet-b0"),
    smp("Unet", "resnet34"),
    smp("Unet", "resnet50"),
    smp("Unet", "tu-regnetx_002"),
    smp("Unet", "mobileone_s0"),
    smp("Unet", "dpn68"),
    smp("Unet", "xception"),
    smp("Unet", "inceptionv4"),
    torchvision("alexnet", suffix=", 10 classes", size=224, num_classes=10),
    torchvision_features("vgg11"),
    torchvision_features("vgg11_bn"),
    torchvision_features("vgg16"),
    torchvision("resnet18"),
    torchvision("resnet34"),
    torchvision("resnet50"),
    torchvision("resnext50_32x4d"),
    torchvision("squeezenet1_0"),
    torchvision("squeezenet1_1"),
    torchvision("densenet121"),
    torchvision("mobilenet_v2"),
    torchvision("mobilenet_v3_small"),
    torchvision("efficientnet_b0"),
    torchvision("shufflenet_v2_x0_5"),
    torchvision("googlenet", aux_logits=False, init_weights=True),
    torchvision("inception_v3", size=96, init_weights=True),
    torchvision("mnasnet0_5"),
    torchvision("regnet_x_400mf"),
    torchvision("regnet_y_400mf"),
    torchvision("convnext_tiny"),
    torchvision(
        "VisionTransformer",
        suffix=", tiny",
        image_size=64,
        patch_size=16,
        num_layers=12,
        num_heads=3,
        hidden_dim=192,
        mlp_dim=768,
    ),
    torchvision("swin_t"),
    torchvision_segmentation("fcn_resnet50"),
    torchvision_segmentation("deeplabv3_resnet50"),
    torchvision_segmentation("lraspp_mobilenet_v3_large"),
    timm("resnet10t"),
    timm("resnet18"),
    timm("resnet26d"),
    timm("resnext50_32x4d"),
    timm("seresnet18"),
    timm("skresnet18"),
    timm("res2net50_26w_4s"),
    timm("cspresnet50"),
    timm("densenet121"),
    timm("mobilenetv2_100"),
    timm("mobilenetv3_small_050"),
    timm("efficientnet_lite0"),
    timm("tf_efficientnet_lite0"),
    timm("tinynet_e"),
    timm("hardcorenas_a"),
    timm("spnasnet_100"),
    timm("fbnetc_100"),
    timm("mnasnet_small"),
    timm("ghostnet_100"),
    timm("lcnet_050"),
    timm("ese_vovnet19b_dw"),
    timm("dla34"),
    timm("hrnet_w18_small"),
    timm("darknet53"),
    timm("repvgg_a0"),
    timm("regnetx_002"),
    timm("regnety_002"),
    timm("selecsls42b"),
    timm("xception41"),
    timm("legacy_xception"),
    timm("inception_v4", size=96),
    timm("gernet_s"),
    timm("hgnetv2_b0"),
    timm("convnext_atto"),
    timm("edgenext_xx_small"),
    timm("mobilevit_xxs"),
    timm("mixer_s16_224", img_size=64),
    timm("vit_tiny_patch16_224", img_size=64),
    paper("LeNet-5", (1, 32, 32), lenet5),
    paper("All-CNN-C", (3, 32, 32), all_cnn),
    paper("Network in Network", (3, 32, 32), network_in_network),
    paper("ResNet-20", (3, 32, 32), resnet20),
    paper("MobileNet, a quarter of its widths", (3, 64, 64), lambda: mobilenet(0.25)),
    paper("U-Net, a quarter of its widths", (1, 64, 64), lambda: PaddedUNet(16)),
    paper("U-Net, bilinear, a quarter of its widths", (3, 64, 64), lambda: BilinearUNet(16)),
    paper("SegNet, a quarter of its widths", (3, 64, 64), lambda: segnet(16)),
    paper("FCN-8s, a quarter of its widths", (3, 64, 64), lambda: FCN8s(16)),
    paper("DnCNN", (1, 32, 32), DnCNN),
    paper("VDSR", (1, 32, 32), VDSR),
    paper("SRCNN", (1, 32, 32), srcnn),
    paper("ESPCN", (1, 32, 32), espcn),
)
