"""Networks with the names of the authors' state dicts, written here from the paper's equations, and their answers.

`Head` follows Eqs. 3-11; the ViT is its definition written out over a state dict, the ResNet is the usual one with
torchvision's names.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 5


class Head(nn.Module):
    """relu(g(h) - c_theta) @ relu(W - c_phi) + relu(b - c_phi), and its exact moments."""

    def __init__(self, width, projection, score_threshold, loading_threshold, loadings_name="linear"):
        super().__init__()
        self.c_theta, self.c_phi, self.loadings_name = score_threshold, loading_threshold, loadings_name
        if projection:
            self.linear_add = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        setattr(self, loadings_name, nn.Linear(width, CLASSES))
        self.linear_k = nn.Sequential(nn.Linear(width, 1), nn.Softplus())
        self.linear_kw = nn.Sequential(nn.Linear(CLASSES, 1), nn.Softplus())
        nn.init.uniform_(getattr(self, loadings_name).weight, -0.3, 0.5)
        nn.init.uniform_(getattr(self, loadings_name).bias, -0.3, 0.5)

    def moments(self, h):
        """Mean and variance of every logit [B, C], by loops over the formulas; the ViT reads k off the means."""
        linear, is_vit = getattr(self, self.loadings_name), hasattr(self, "linear_add")
        z = self.linear_add[0](h) if is_vit else h
        theta = F.relu(z - self.c_theta)
        phi = F.relu(linear.weight - self.c_phi).T
        k_theta = self.linear_k(theta if is_vit else h)
        k_phi = self.linear_kw(phi if is_vit else linear.weight.T)
        bias = F.relu(linear.bias - self.c_phi)
        mean, variance = torch.zeros(len(h), CLASSES, dtype=h.dtype), torch.zeros(len(h), CLASSES, dtype=h.dtype)
        for b in range(len(h)):
            for c in range(CLASSES):
                mean[b, c] = bias[c]
                for f in range(theta.shape[1]):
                    t, p = theta[b, f].item(), phi[f, c].item()
                    t2 = t**2 * second_over_first(k_theta[b, 0].item())
                    p2 = p**2 * second_over_first(k_phi[f, 0].item())
                    mean[b, c] += t * p
                    variance[b, c] += t2 * p2 - (t * p) ** 2
        return mean, variance


def second_over_first(k):
    """E[x^2] / E[x]^2 of a Weibull with concentration k."""
    return math.gamma(1 + 2 / k) / math.gamma(1 + 1 / k) ** 2


# ---- ViT ----


def vit_state(width=32, layers=2, hidden=24, patch=4, side=8):
    """Random weights under the names of transformers 4's ViT."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator) * 0.3

    state = {
        "embeddings.cls_token": random(1, 1, width),
        "embeddings.position_embeddings": random(1, (side // patch) ** 2 + 1, width),
        "embeddings.patch_embeddings.projection.weight": random(width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": random(width),
    }
    for i in range(layers):
        sizes = {f"attention.attention.{name}": (width, width) for name in ("query", "key", "value")}
        sizes |= {"attention.output.dense": (width, width)}
        sizes |= {"intermediate.dense": (hidden, width), "output.dense": (width, hidden)}
        for name, size in sizes.items():
            state[f"encoder.layer.{i}.{name}.weight"] = random(*size)
            state[f"encoder.layer.{i}.{name}.bias"] = random(size[0])
    for name in (
        *(f"encoder.layer.{i}.layernorm_{n}" for i in range(layers) for n in ("before", "after")),
        "layernorm",
    ):
        state |= {f"{name}.weight": 1 + random(width), f"{name}.bias": random(width)}
    return {f"vit.{name}": tensor for name, tensor in state.items()}


def vit_features(state, pixel_values, heads, layers=2):
    """The class token after the last norm, [B, D]."""

    def linear(name, x):
        return F.linear(x, state[f"vit.{name}.weight"], state[f"vit.{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"vit.{name}.weight"], state[f"vit.{name}.bias"], eps=1e-12)

    weight = state["vit.embeddings.patch_embeddings.projection.weight"]
    bias = state["vit.embeddings.patch_embeddings.projection.bias"]
    patches = F.conv2d(pixel_values, weight, bias, stride=weight.shape[-1]).flatten(2).mT  # [B, P, D]
    x = torch.cat([state["vit.embeddings.cls_token"].expand(len(patches), -1, -1), patches], dim=1)
    x = x + state["vit.embeddings.position_embeddings"]
    for i in range(layers):
        name = f"encoder.layer.{i}"
        h = norm(f"{name}.layernorm_before", x)
        q, k, v = (
            linear(f"{name}.attention.attention.{n}", h).unflatten(-1, (heads, -1)).transpose(1, 2)
            for n in ("query", "key", "value")
        )
        attention = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v  # [B, heads, P + 1, D / heads]
        x = x + linear(f"{name}.attention.output.dense", attention.transpose(1, 2).flatten(2))
        h = linear(f"{name}.intermediate.dense", norm(f"{name}.layernorm_after", x))
        x = x + linear(f"{name}.output.dense", F.gelu(h))
    return norm("layernorm", x)[:, 0]


# ---- ResNet ----


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, bottleneck):
        super().__init__()
        sizes = [(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)]
        if bottleneck:
            width = outputs // 4
            sizes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        for i, (a, b, kernel, step) in enumerate(sizes, start=1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        self.count, self.downsample = len(sizes), None
        if stride > 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = x
        for i in range(1, self.count + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            out = F.relu(out) if i < self.count else out
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Two or three stages with torchvision's names; statistics and affine parameters of its norms are random."""

    def __init__(self, bottleneck, stem=7, depths=(2, 1, 2), widths=(16, 32, 64)):
        super().__init__()
        inputs = 8 if bottleneck else widths[0]
        self.conv1 = nn.Conv2d(3, inputs, stem, 2 if stem == 7 else 1, stem // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        for i, (depth, outputs) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(Block(inputs, outputs, 2 if i and not j else 1, bottleneck))
                inputs = outputs
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.stages, self.width = len(depths), inputs
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.normal_(norm.running_mean, std=0.1)
                nn.init.uniform_(norm.running_var, 0.5, 2.0)
                nn.init.uniform_(norm.weight, 0.5, 2.0)
                nn.init.normal_(norm.bias)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for i in range(1, self.stages + 1):
            x = getattr(self, f"layer{i}")(x)
        return x.mean(dim=(2, 3))
