"""CARD: the diffusion's moments and posterior against direct Gaussian computations, its predictions by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from bndl_hf.baselines import CardClassifier, CardSettings, make_head
from bndl_hf.baselines.card import LabelDiffusion, NoiseNetwork, brier_log_probs

SMALL = CardSettings(num_steps=25, width=16, num_samples=8, num_updates=300, batch_size=80, learning_rate=1e-2)


def clusters(count, seed=0):
    """Rows of three classes that overlap a little, [count, 4], and their labels."""
    labels = torch.arange(count) % 3
    return 2.5 * torch.eye(4)[labels] + torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), labels


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    guide = make_head("dense", 4, 3)[0].eval()
    return CardClassifier(guide, *clusters(240), *clusters(90, seed=1), settings=SMALL)


# ---- the diffusion ----


def test_the_schedule_is_the_paper_s_and_forgets_the_label():
    published = LabelDiffusion(1000)
    np.testing.assert_allclose(published.beta[1:].numpy(), np.linspace(1e-4, 0.02, 1000), rtol=1e-12)
    for num_steps in (25, 50, 1000):
        assert 0 < LabelDiffusion(num_steps).alpha_bar[-1] < 1e-4


@pytest.mark.parametrize("t", [1, 2, 13, 50])
def test_a_noised_label_has_the_moments_of_the_steps_one_by_one(t):
    diffusion = LabelDiffusion(50)
    y_0, guide = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[0.3, 0.7]]).double()
    mean, variance = y_0, 0.0
    for step in range(1, t + 1):  # q(y_t | y_{t-1}, f) = N(sqrt(a) y + (1 - sqrt(a)) f, beta)
        beta = diffusion.beta[step].item()
        mean = math.sqrt(1 - beta) * mean + (1 - math.sqrt(1 - beta)) * guide
        variance = (1 - beta) * variance + beta
    steps = torch.tensor([t])
    found = diffusion.noised(y_0, guide, steps, torch.zeros(1, 2).double())
    torch.testing.assert_close(found, mean)
    spread = diffusion.noised(y_0, guide, steps, torch.ones(1, 2).double()) - found
    torch.testing.assert_close(spread, torch.full((1, 2), math.sqrt(variance)).double())


@pytest.mark.parametrize(("num_steps", "t"), [(50, 2), (50, 20), (50, 50), (1000, 2), (1000, 700)])
def test_the_posterior_is_the_product_of_the_two_gaussians(num_steps, t):
    diffusion = LabelDiffusion(num_steps)
    y_0, y_t, guide = 1.0, -0.4, 0.8
    before, alpha, beta = (one.item() for one in (diffusion.alpha_bar[t - 1], diffusion.alpha[t], diffusion.beta[t]))
    gamma_0, gamma_1, gamma_2, variance = diffusion.posterior(t)
    expected = gamma_0 * y_0 + gamma_1 * y_t + gamma_2 * guide
    y = expected + math.sqrt(variance) * np.linspace(-12, 12, 20_001)  # y_{t-1}
    prior = -((y - math.sqrt(before) * y_0 - (1 - math.sqrt(before)) * guide) ** 2) / (2 * (1 - before))
    step = -((y_t - math.sqrt(alpha) * y - (1 - math.sqrt(alpha)) * guide) ** 2) / (2 * beta)
    density = np.exp(prior + step - (prior + step).max())
    density /= density.sum()
    mean = (density * y).sum()
    assert mean == pytest.approx(expected, rel=1e-9)
    assert (density * (y - mean) ** 2).sum() == pytest.approx(variance, rel=1e-9)


def test_the_last_step_answers_the_label_itself():
    assert LabelDiffusion(50).posterior(1) == pytest.approx((1, 0, 0, 0), abs=1e-12)


def test_denoising_inverts_noising():
    diffusion, generator = LabelDiffusion(50), torch.Generator().manual_seed(0)
    y_0, guide, noise = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    y_t = diffusion.noised(y_0, guide, torch.tensor([30] * 3), noise)
    torch.testing.assert_close(diffusion.denoised(y_t, guide, 30, noise), y_0)


def test_with_the_true_noise_the_reverse_process_draws_the_label():
    # The best prediction of the noise, when every label is y_0, is the noise itself: going back ends at y_0.
    diffusion, generator = LabelDiffusion(50), torch.Generator().manual_seed(0)
    y_0, guide = torch.tensor([0.0, 1.0, 0.0]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    y_t = guide + torch.randn(3, generator=generator, dtype=torch.float64)
    for t in range(50, 0, -1):
        root = diffusion.alpha_bar[t].sqrt()
        noise = (y_t - root * y_0 - (1 - root) * guide) / (1 - diffusion.alpha_bar[t]).sqrt()
        gamma_0, gamma_1, gamma_2, variance = diffusion.posterior(t)
        y_t = gamma_0 * diffusion.denoised(y_t, guide, t, noise) + gamma_1 * y_t + gamma_2 * guide
        y_t = y_t + math.sqrt(variance) * torch.randn(3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(y_t, y_0)


# ---- the network ----


def test_the_network_is_the_formula_row_by_row():
    torch.manual_seed(0)
    network = NoiseNetwork(4, 3, 5, 30).double().eval()
    x, y_t, guide = torch.randn(2, 4).double(), torch.randn(7, 2, 3).double(), torch.rand(2, 3).double()
    t = torch.tensor([4, 30])
    encoding = network.encoder(x)
    found = network(encoding, y_t, guide, t)

    def softplus_of(layer, value, step):
        product = (layer.linear.weight @ value + layer.linear.bias) * layer.scale[step - 1]
        return torch.log1p(torch.exp(product / math.sqrt(1 + layer.norm.eps)))  # fresh statistics: mean 0, variance 1

    for sample in range(7):
        for row in range(2):
            hidden = torch.cat([y_t[sample, row], guide[row]])
            hidden = softplus_of(network.layers[0], hidden, t[row]) * encoding[row]
            for layer in network.layers[1:]:
                hidden = softplus_of(layer, hidden, t[row])
            torch.testing.assert_close(found[sample, row], network.output.weight @ hidden + network.output.bias)


# ---- the head ----


def test_probabilities_are_the_softmax_of_the_brier_score():
    samples = torch.tensor([[[0.9, 0.2, -0.5]], [[2.0, 1.0, 0.0]]])
    found = brier_log_probs(samples, 0.5).exp()
    for sample in range(2):
        weights = [math.exp(-((y - 1) ** 2) / 0.5) for y in samples[sample, 0].tolist()]
        assert found[sample, 0].tolist() == pytest.approx([one / sum(weights) for one in weights], rel=1e-5)


def test_it_learns_what_its_guide_does_not_know(head):
    features, labels = clusters(300, seed=2)
    prediction = head.predict(features)
    assert (head.guide.predict(features).probs.argmax(-1) == labels).float().mean() < 0.6  # an untrained guide
    assert (prediction.probs.argmax(-1) == labels).float().mean() > 0.8
    torch.testing.assert_close(prediction.probs, head.probs(features))  # draws are those of the seed
    torch.testing.assert_close(prediction.probs.sum(-1), torch.ones(300))


def test_votes_widths_and_p_values_are_those_of_the_samples(head):
    features = clusters(6, seed=3)[0]
    prediction, samples = head.predict(features), head.sample(features).double().numpy()  # [S, B, C]
    scores = np.exp(-((samples - 1) ** 2) / head.brier_temperature)
    probs = scores / scores.sum(-1, keepdims=True)
    votes = [np.bincount(probs[:, row].argmax(-1), minlength=3) / 8 for row in range(6)]
    np.testing.assert_allclose(prediction.votes.numpy(), votes, atol=1e-6)
    widths = np.subtract(*np.percentile(samples, [97.5, 2.5], axis=0))
    np.testing.assert_allclose(prediction.interval_width.numpy(), widths, rtol=1e-4)
    for row in range(6):
        second, first = probs[:, row].mean(0).argsort()[-2:]
        expected = ttest_rel(probs[:, row, first], probs[:, row, second]).pvalue
        assert prediction.p_value[row].item() == pytest.approx(expected, rel=1e-3, abs=1e-12)


def test_the_brier_temperature_is_the_best_on_held_out_rows(head):
    (features, labels), best = clusters(90, seed=1), head.brier_temperature
    samples = head.sample(features)

    def loss(temperature):
        probs = brier_log_probs(samples, temperature).exp().mean(0)
        return -probs[torch.arange(90), labels].log().mean().item()

    assert loss(best) < min(loss(1.2 * best), loss(best / 1.2))


def test_ood_scores_are_those_of_the_tempered_probabilities(head):
    features = clusters(30, seed=4)[0]
    head.temperature = 1.5
    scores, probs = head.ood_scores(features), head.probs(features)
    head.temperature = 1.0
    assert set(scores) == {"max_probability", "entropy", "mutual_information", "interval_width"}
    torch.testing.assert_close(scores["max_probability"], 1 - probs.amax(-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores["entropy"], -(probs * probs.log()).sum(-1), atol=1e-5, rtol=1e-4)
    assert (scores["mutual_information"] > -1e-6).all()
    prediction = head.predict(features)
    answer = prediction.probs.argmax(-1, keepdim=True)
    torch.testing.assert_close(scores["interval_width"], prediction.interval_width.gather(1, answer)[:, 0])


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="num_steps=10 is too few for small steps of noise; pass 25 or more"):
        CardSettings(num_steps=10)
    with pytest.raises(ValueError, match="num_samples=1: samples have no spread; pass 2 or more"):
        CardSettings(num_samples=1)
