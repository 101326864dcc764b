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

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks import zoo_papers

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
    """As its paper says, see `zoo_papers`."""
    return Model("paper", name, input_shape, make)


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
    paper("LeNet-5", (1, 32, 32), zoo_papers.lenet5),
    paper("All-CNN-C", (3, 32, 32), zoo_papers.all_cnn),
    paper("Network in Network", (3, 32, 32), zoo_papers.network_in_network),
    paper("ResNet-20", (3, 32, 32), zoo_papers.resnet20),
    paper("MobileNet, a quarter of its widths", (3, 64, 64), lambda: zoo_papers.mobilenet(0.25)),
    paper("U-Net, a quarter of its widths", (1, 64, 64), lambda: zoo_papers.PaddedUNet(16)),
    paper("U-Net, bilinear, a quarter of its widths", (3, 64, 64), lambda: zoo_papers.BilinearUNet(16)),
    paper("SegNet, a quarter of its widths", (3, 64, 64), lambda: zoo_papers.segnet(16)),
    paper("FCN-8s, a quarter of its widths", (3, 64, 64), lambda: zoo_papers.FCN8s(16)),
    paper("DnCNN", (1, 32, 32), zoo_papers.DnCNN),
    paper("VDSR", (1, 32, 32), zoo_papers.VDSR),
    paper("SRCNN", (1, 32, 32), zoo_papers.srcnn),
    paper("ESPCN", (1, 32, 32), zoo_papers.espcn),
)
