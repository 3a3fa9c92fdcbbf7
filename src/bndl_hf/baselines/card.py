"""CARD on frozen features (Han, Zheng and Zhou 2022, arXiv:2206.07275): labels are sampled by a guided diffusion.

A frozen classifier f = f_phi(x) says probabilities. One-hot labels y_0 are carried to N(f, I) in T steps
(`LabelDiffusion`), a network learns the noise that was added (`NoiseNetwork`), and S labels are drawn for an image by
going back from N(f, I) (`CardClassifier`). How widely they scatter says how sure the answer is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from bndl_hf.baselines.classifiers import LogProbsClassifier
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.uncertainty import negative_log_likelihood
from bndl_hf.uncertainty.pavpu import gap_test

CITATION = """@inproceedings{han2022card,
  title = {{CARD}: Classification and Regression Diffusion Models},
  author = {Han, Xizewen and Zheng, Huangjie and Zhou, Mingyuan},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
  url = {https://arxiv.org/abs/2206.07275}
}"""

# The paper's noise: beta from 1e-4 to 0.02 over 1,000 steps.
_PUBLISHED_STEPS = 1000
_FIRST_BETA, _LAST_BETA = 1e-4, 0.02
# Fewer steps would need a beta above 0.8.
_FEWEST_STEPS = 25
# Where the temperature of the Brier scores is looked for: squared errors of one-hot labels are about 0 or 1.
_SMALLEST_BRIER_TEMPERATURE, _LARGEST_BRIER_TEMPERATURE = 1e-2, 10.0
_ROWS = 512  # at a time, each with all its samples


@dataclass(frozen=True)
class CardSettings:
    """How large a CARD head is and how long it trains; the defaults are scaled down to minutes on two CPU cores.

    Attributes:
        num_steps: T, steps of the diffusion, at least 25.
        width: of the hidden layers of the noise network.
        num_samples: S, labels drawn for an image.
        num_updates: steps of the optimizer.
        batch_size: rows a step.
        learning_rate: of Adam, going to zero as a cosine.
    """

    num_steps: int = 50
    width: int = 64
    num_samples: int = 20
    num_updates: int = 2000
    batch_size: int = 512
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.num_steps < _FEWEST_STEPS:
            raise ValueError(
                f"num_steps={self.num_steps} is too few for small steps of noise; pass {_FEWEST_STEPS} or more."
            )
        if self.num_samples < 2:
            raise ValueError(f"num_samples={self.num_samples}: samples have no spread; pass 2 or more.")


# T, noise and width of the paper's CIFAR-10 experiment: hours on a GPU. Samples and updates are not from there.
PUBLISHED_SETTINGS = CardSettings(num_steps=_PUBLISHED_STEPS, width=4096, num_samples=100, num_updates=200_000)


class LabelDiffusion:
    """The forward process and its posterior (Sec. 2.1); step t is in 1 .. T.

    Departure: where T is not 1,000 the paper's betas are multiplied by 1000 / T, so that y_T has forgotten y_0.

    Args:
        num_steps: T.

    Attributes:
        beta, alpha: beta_t and 1 - beta_t, [T + 1] float64; of t = 0: 0 and 1.
        alpha_bar: product of alpha_1 .. alpha_t, [T + 1] float64; of t = 0: 1.

    Example:
        >>> diffusion = LabelDiffusion(1000)
        >>> round(diffusion.beta[1000].item(), 4), diffusion.alpha_bar[1000].item() < 1e-4
        (0.02, True)
    """

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        beta = torch.linspace(_FIRST_BETA, _LAST_BETA, num_steps, dtype=torch.float64) * _PUBLISHED_STEPS / num_steps
        self.beta = torch.cat([beta.new_zeros(1), beta])
        self.alpha = 1 - self.beta
        self.alpha_bar = self.alpha.cumprod(0)

    def noised(self, y_0: Tensor, guide: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """A draw of q(y_t | y_0, f) = N(sqrt(abar_t) y_0 + (1 - sqrt(abar_t)) f, (1 - abar_t) I), [B, C].

        Args:
            y_0: one-hot labels, [B, C].
            guide: f, [B, C].
            t: step of every row, [B].
            noise: standard normal, [B, C].
        """
        root = self.alpha_bar[t].sqrt().to(y_0)[:, None]
        spread = (1 - self.alpha_bar[t]).sqrt().to(y_0)[:, None]
        return root * y_0 + (1 - root) * guide + spread * noise

    def posterior(self, t: int) -> tuple[float, float, float, float]:
        """gamma_0, gamma_1, gamma_2 and the variance of q(y_{t-1} | y_t, y_0, f).

        Its mean is gamma_0 y_0 + gamma_1 y_t + gamma_2 f. At t = 1 they are 1, 0, 0 and 0: the last step answers y_0
        itself.
        """
        beta, alpha = self.beta[t], self.alpha[t]
        alpha_bar, before = self.alpha_bar[t], self.alpha_bar[t - 1]
        gamma_0 = beta * before.sqrt() / (1 - alpha_bar)
        gamma_1 = (1 - before) * alpha.sqrt() / (1 - alpha_bar)
        gamma_2 = 1 + (alpha_bar.sqrt() - 1) * (alpha.sqrt() + before.sqrt()) / (1 - alpha_bar)
        variance = (1 - before) / (1 - alpha_bar) * beta
        return gamma_0.item(), gamma_1.item(), gamma_2.item(), variance.item()

    def denoised(self, y_t: Tensor, guide: Tensor, t: int, noise: Tensor) -> Tensor:
        """y_0 that `noised` would have made y_t of, given the noise: its inverse at one step t, [..., C]."""
        root = math.sqrt(self.alpha_bar[t])
        return (y_t - (1 - root) * guide - math.sqrt(1 - self.alpha_bar[t]) * noise) / root


class NoiseNetwork(nn.Module):
    """epsilon_theta(x, y_t, f, t), the noise in y_t, as published: feed-forward, batch norm, softplus.

    y_t and f go through a linear layer that is multiplied by an embedding of t; its output is multiplied by the image's
    own encoding, and two more layers of the first kind follow.

    Args:
        feature_dim: D.
        num_labels: C.
        width: of every hidden layer.
        num_steps: T.
    """

    def __init__(self, feature_dim: int, num_labels: int, width: int, num_steps: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Linear(feature_dim, width), nn.BatchNorm1d(width), nn.Softplus()),
            *(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Softplus()),
            *(nn.Linear(width, width), nn.BatchNorm1d(width)),
        )
        inputs = (2 * num_labels, width, width)
        self.layers = nn.ModuleList(_TimedLayer(one, width, num_steps) for one in inputs)
        self.output = nn.Linear(width, num_labels)

    def forward(self, encoding: Tensor, y_t: Tensor, guide: Tensor, t: Tensor) -> Tensor:
        """The noise, of y_t's shape.

        Args:
            encoding: `encoder` of standardised features, [B, width].
            y_t: [B, C] or [S, B, C].
            guide: f, [B, C].
            t: the step, in 1 .. T: [B], or a scalar for all rows.
        """
        joined = torch.cat([y_t, guide.expand_as(y_t)], dim=-1)  # [..., B, 2 C]
        hidden = self.layers[0](joined, t) * encoding
        for layer in self.layers[1:]:
            hidden = layer(hidden, t)
        return self.output(hidden)


class _TimedLayer(nn.Module):
    """softplus(norm(linear(x) * embedding of t)), [..., width]."""

    def __init__(self, inputs: int, width: int, num_steps: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(inputs, width), nn.BatchNorm1d(width)
        self.scale = nn.Parameter(torch.rand(num_steps, width))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        product = self.linear(x) * self.scale[t - 1]
        return F.softplus(self.norm(product.flatten(0, -2)).view_as(product))


@dataclass(frozen=True)
class CardPrediction:
    """What S sampled labels say of an image.

    Attributes:
        probs: mean over the samples of their probabilities, [B, C].
        votes: share of the samples whose largest entry is the class, [B, C]; the paper answers by majority.
        interval_width: from the 2.5th to the 97.5th percentile of the sampled labels, [B, C] (the paper's PIW).
        p_value: of the paired t-test between the two classes of the largest mean probability, over the probabilities of
            the samples, [B], in [0, 1].
    """

    probs: Tensor
    votes: Tensor
    interval_width: Tensor
    p_value: Tensor


class CardClassifier(LogProbsClassifier):
    """A CARD head, trained.

    Departure: the temperature of the Brier scores is that of least negative log-likelihood on held-out rows, and the
    t-test compares the two most probable classes, because votes have no second class where all samples agree.

    Args:
        guide: f_phi, a trained head; it is not trained further.
        features: h = f(x), [N, D].
        labels: [N], in 0 .. C - 1.
        eval_features, eval_labels: held-out rows, [M, D] and [M].
        settings: sizes; the defaults are scaled down.
        seed: of initialisation, order, noise, and the samples of every prediction.

    Attributes:
        brier_temperature: tau of softmax(-(y_0 - 1)^2 / tau), > 0.
    """

    def __init__(
        self,
        guide: PosteriorHead,
        features: Tensor,
        labels: Tensor,
        eval_features: Tensor,
        eval_labels: Tensor,
        settings: CardSettings | None = None,
        seed: int = 0,
    ) -> None:
        self.guide, self.settings, self.seed = guide.eval(), settings or CardSettings(), seed
        self.mean, std = features.float().mean(0), features.float().std(0)
        self.std = torch.where(std > 1e-6, std, 1.0)  # a feature that never varied in training stays small
        self.diffusion = LabelDiffusion(self.settings.num_steps)
        D, C = features.shape[1], guide.config.num_labels
        torch.manual_seed(seed)
        self.network = NoiseNetwork(D, C, self.settings.width, self.settings.num_steps)
        self.weights_per_class = sum(one.numel() for one in self.network.parameters()) / C
        self._train(features, labels)
        self.brier_temperature = _fit_brier_temperature(self.sample(eval_features), eval_labels)

    def sample(self, features: Tensor) -> Tensor:
        """S sampled labels y_0 for each row of features [B, D], [S, B, C]; they need not lie in [0, 1]."""
        return torch.cat(list(self._samples(features)), dim=1)

    def predict(self, features: Tensor) -> CardPrediction:
        """What the samples say of features [B, D], before any temperature but tau."""
        samples = self.sample(features)
        log_probs = brier_log_probs(samples, self.brier_temperature)  # [S, B, C]
        low, high = torch.quantile(samples, torch.tensor([0.025, 0.975]), dim=0)
        return CardPrediction(
            probs=log_probs.exp().mean(dim=0),
            votes=F.one_hot(log_probs.argmax(dim=-1), samples.shape[-1]).float().mean(dim=0),
            interval_width=high - low,
            # softmax(log p) = p: the test sees the probabilities of the samples.
            p_value=gap_test(log_probs, values="probabilities").p_value,
        )

    def p_value(self, features: Tensor) -> Tensor:
        """Of the paired t-test between the two most probable classes over the S samples, [B], in [0, 1]."""
        return self.predict(features).p_value

    def log_probs(self, features: Tensor) -> Tensor:
        """log of the mean over the samples of softmax(-(y_0 - 1)^2 / tau), [B, C]."""
        return torch.cat([self._mean_log_probs(samples) for samples in self._samples(features)])

    def ood_scores(self, features: Tensor) -> dict[str, Tensor]:
        """Largest probability, entropy, mutual information of label and sample, width of the answer's interval."""
        parts: list[dict[str, Tensor]] = []
        for samples in self._samples(features):
            log_probs = self._mean_log_probs(samples)
            probs, mean = (log_probs / self.temperature).softmax(dim=-1), log_probs.exp()
            of_samples = torch.special.entr(brier_log_probs(samples, self.brier_temperature).exp()).sum(-1).mean(0)
            low, high = torch.quantile(samples, torch.tensor([0.025, 0.975]), dim=0)
            parts.append(
                {
                    "max_probability": 1 - probs.amax(dim=-1),
                    "entropy": torch.special.entr(probs).sum(dim=-1),
                    "mutual_information": torch.special.entr(mean).sum(dim=-1) - of_samples,
                    "interval_width": (high - low).gather(1, mean.argmax(dim=-1, keepdim=True))[:, 0],
                }
            )
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _train(self, features: Tensor, labels: Tensor) -> None:
        """Least squares of the noise (Algorithm 1)."""
        settings, N = self.settings, len(features)
        inputs, guide = self._standardised(features), self._guide(features)
        y_0 = F.one_hot(labels.long(), guide.shape[1]).float()
        optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.num_updates)
        self.network.train()
        for rows in self._batches(N):
            t = torch.randint(1, settings.num_steps + 1, (len(rows),))
            noise = torch.randn_like(y_0[rows])
            y_t = self.diffusion.noised(y_0[rows], guide[rows], t, noise)
            found = self.network(self.network.encoder(inputs[rows]), y_t, guide[rows], t)
            optimizer.zero_grad()
            F.mse_loss(found, noise).backward()
            optimizer.step()
            schedule.step()
        self.network.eval()

    def _batches(self, num_rows: int) -> Iterator[Tensor]:
        """Rows of every update, passes in a new order each; batches that are not full are dropped: a batch norm of few
        rows is noise."""
        size, left = min(self.settings.batch_size, num_rows), self.settings.num_updates
        while left:
            full = torch.randperm(num_rows).split(size)[: min(num_rows // size, left)]
            yield from full
            left -= len(full)

    @torch.no_grad()
    def _samples(self, features: Tensor) -> Iterator[Tensor]:
        """Algorithm 2, a block of rows after the other, [S, rows, C] each."""
        generator = torch.Generator().manual_seed(self.seed)
        for rows in features.split(_ROWS):
            encoding, guide = self.network.encoder(self._standardised(rows)), self._guide(rows)
            shape = (self.settings.num_samples, *guide.shape)
            y_t = guide + torch.randn(shape, generator=generator)
            for t in range(self.settings.num_steps, 0, -1):
                noise = self.network(encoding, y_t, guide, torch.tensor(t))
                y_0 = self.diffusion.denoised(y_t, guide, t, noise)
                gamma_0, gamma_1, gamma_2, variance = self.diffusion.posterior(t)
                y_t = gamma_0 * y_0 + gamma_1 * y_t + gamma_2 * guide
                if t > 1:
                    y_t += math.sqrt(variance) * torch.randn(shape, generator=generator)
            yield y_t

    @torch.no_grad()
    def _guide(self, features: Tensor) -> Tensor:
        return self.guide.predict(features).probs.float()

    def _standardised(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean) / self.std

    def _mean_log_probs(self, samples: Tensor) -> Tensor:
        return _mean(brier_log_probs(samples, self.brier_temperature))


def brier_log_probs(samples: Tensor, temperature: float) -> Tensor:
    """log softmax(-(y_0 - 1)^2 / tau) over the classes (Sec. 2.2), [S, B, C]: most probable is the entry closest to 1.

    Args:
        samples: y_0, [S, B, C].
        temperature: tau > 0.

    Example:
        >>> brier_log_probs(torch.tensor([[[1.0, 0.0]]]), 1.0).exp()  # 1 / (1 + exp(-1))
        tensor([[[0.7311, 0.2689]]])
    """
    return (-(samples - 1).square() / temperature).log_softmax(dim=-1)


def _mean(log_probs: Tensor) -> Tensor:
    """log of the mean over the samples, [S, B, C] -> [B, C]."""
    return log_probs.logsumexp(dim=0) - math.log(len(log_probs))


def _fit_brier_temperature(samples: Tensor, labels: Tensor) -> float:
    """tau of least negative log-likelihood of labels [B] under samples [S, B, C]."""

    def loss(log_temperature: float) -> float:
        mean = _mean(brier_log_probs(samples.double(), math.exp(log_temperature)))
        return negative_log_likelihood(mean.exp(), labels)

    bounds = (math.log(_SMALLEST_BRIER_TEMPERATURE), math.log(_LARGEST_BRIER_TEMPERATURE))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3}).x)
