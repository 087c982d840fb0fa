"""Four networks to measure on, written from their papers, with random weights that behave like trained ones.

Speed and agreement do not depend on what a network has learnt, so nothing has to be downloaded. What they
do depend on is that activations neither die nor blow up: weights are drawn by the usual initialisations,
and every BatchNormalization has the statistics that the network really has on pictures-like input.

Run as a script to write the ONNX files: ``python benchmarks/networks.py FOLDER``.

- ResNet-18: He et al., "Deep Residual Learning for Image Recognition", 2015, table 1.
- MobileNetV2: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, table 2.
- EfficientNet-Lite0: Tan and Le, "EfficientNet", 2019, table 1, without squeeze-and-excitation, with ReLU6
  for swish, and with stem and head of fixed width.
- ViT-S/16: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020; size S from Touvron et al., "DeiT", 2020.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from onnxplain.exporters import export

SIZE = 224
CLASSES = 1000


def _conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: nn.Module | None = None,
    epsilon: float = 1e-5,
) -> nn.Sequential:  # fmt: skip
    """Convolution without bias that keeps the size (up to the stride), BatchNormalization, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=epsilon),
    ]
    return nn.Sequential(*layers, *([activation] if activation is not None else []))


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions, with a projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv_norm(inputs, outputs, 3, stride, activation=nn.ReLU()), _conv_norm(outputs, outputs, 3)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = functional.relu(self.body(x) + self.shortcut(x))
        return result


class ResNet18(nn.Module):
    """Four stages of two blocks, 64 to 512 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_norm(3, 64, 7, 2, activation=nn.ReLU()), nn.MaxPool2d(3, 2, 1))
        blocks: list[nn.Module] = []
        inputs = 64
        for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(512, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.pool(self.blocks(self.stem(x))).flatten(1))
        return result


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel, project by 1x1 without activation; a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int, epsilon: float) -> None:
        super().__init__()
        width = inputs * expansion
        layers = [_conv_norm(inputs, width, 1, activation=nn.ReLU6(), epsilon=epsilon)] if expansion != 1 else []
        layers += [
            _conv_norm(width, width, kernel, stride, width, nn.ReLU6(), epsilon),
            _conv_norm(width, outputs, 1, epsilon=epsilon),
        ]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + self.body(x) if self.residual else self.body(x)
        return result


# Expansion, kernel, channels, repeats, stride of the first repeat.
MOBILENET_V2 = (
    (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 3, 32, 3, 2), (6, 3, 64, 4, 2), (6, 3, 96, 3, 1), (6, 3, 160, 3, 2),
    (6, 3, 320, 1, 1),
)  # fmt: skip
EFFICIENTNET_LITE0 = (
    (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1), (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)  # fmt: skip


class InvertedResidualNet(nn.Module):
    """MobileNetV2 and EfficientNet-Lite0: a stem of 32 channels, a table of blocks, a head of 1280."""

    def __init__(self, table: tuple[tuple[int, int, int, int, int], ...], epsilon: float) -> None:
        super().__init__()
        self.stem = _conv_norm(3, 32, 3, 2, activation=nn.ReLU6(), epsilon=epsilon)
        blocks = []
        inputs = 32
        for expansion, kernel, outputs, repeats, first_stride in table:
            for index in range(repeats):
                stride = first_stride if index == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, expansion, kernel, stride, epsilon))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = _conv_norm(inputs, 1280, 1, activation=nn.ReLU6(), epsilon=epsilon)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(1280, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.pool(self.last(self.blocks(self.stem(x)))).flatten(1))
        return result


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron with exact GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        packed = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        result: torch.Tensor = self.projection(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return result

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.norm1(x))
        result: torch.Tensor = x + self.mlp(self.norm2(x))
        return result


class VisionTransformer(nn.Module):
    """Patches of 16 pixels, a class token, learned positions, 12 blocks."""

    def __init__(self, width: int = 384, depth: int = 12, heads: int = 6, patch: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (SIZE // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], 1) + self.positions
        result: torch.Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return result


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": ResNet18,
    "mobilenet_v2": lambda: InvertedResidualNet(MOBILENET_V2, 1e-5),
    "efficientnet_lite0": lambda: InvertedResidualNet(EFFICIENTNET_LITE0, 1e-3),
    "vit_s16": VisionTransformer,
}


def pictures(count: int, seed: int) -> torch.Tensor:
    """Random input with the statistics of normalised photographs: mostly slow changes, a little noise.

    Returns:
        ``(count, 3, 224, 224)``, mean about 0, deviation about 1.
    """
    generator = torch.Generator().manual_seed(seed)
    image = 0.2 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    for cells in (4, 14, 56):
        coarse = torch.randn(count, 3, cells, cells, generator=generator)
        image = image + functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return image / image.std()


def build(name: str, seed: int = 0) -> nn.Module:
    """One of :data:`NETWORKS`, in evaluation mode; the same seed gives the same weights.

    Args:
        name: ``resnet18``, ``mobilenet_v2``, ``efficientnet_lite0`` or ``vit_s16``; input ``(N, 3, 224, 224)``,
            output ``(N, 1000)`` logits.
        seed: Seed of the weights; the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = NETWORKS[name]()
        for module in network.modules():
            _draw(module)
        for tokens in (parameter for key, parameter in network.named_parameters() if key in _TOKENS):
            nn.init.trunc_normal_(tokens, std=0.2)
        _settle(network, seed)
    return network.eval()


_TOKENS = ("class_token", "positions")


def _draw(module: nn.Module) -> None:
    """Weights of one layer. Biases and shifts are not zero, as in no trained network they are."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
    elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
        nn.init.uniform_(module.weight, 0.6, 1.4)
    if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm)) and module.bias is not None:
        nn.init.normal_(module.bias, std=0.1)


def _settle(network: nn.Module, seed: int) -> None:
    """Give each BatchNormalization the mean and variance that it sees, averaged over four batches."""
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not layers:
        return
    for layer in layers:
        layer.momentum = None  # the plain average of all batches
    network.train()
    for batch in range(4):
        network(pictures(4, seed + 1 + batch))
    for layer in layers:
        layer.momentum = 0.1


def export_all(folder: Path) -> dict[str, Path]:
    """Write every network as ONNX, BatchNormalization folded as deployed; keep files that are there.

    Returns:
        Path by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.onnx" for name in NETWORKS}
    for name, path in paths.items():
        if not path.exists():
            export(build(name), pictures(1, seed=100), path, fold=True, output_names=["logits"])
    return paths


if __name__ == "__main__":
    for network_name, network_path in export_all(Path(sys.argv[1])).items():
        print(f"{network_name}: {network_path} ({network_path.stat().st_size / 1e6:.1f} MB)")
