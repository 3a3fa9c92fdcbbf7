"""NMF through the gradient of a GELU."""

import torch
import torch.nn.functional as F

from bndl_hf.baselines import make_head
from bndl_hf.baselines.nmf_gelu import relu_with_gelu_gradient


def test_values_are_relu_s_and_gradients_gelu_s():
    x = torch.linspace(-30, 30, 601, dtype=torch.float64, requires_grad=True)
    values = relu_with_gelu_gradient(x)
    assert torch.equal(values, F.relu(x))
    (found,) = torch.autograd.grad((values * torch.arange(601)).sum(), x)
    (expected,) = torch.autograd.grad((F.gelu(x) * torch.arange(601)).sum(), x)
    torch.testing.assert_close(found, expected)


def test_it_answers_as_nmf_does_and_no_weight_is_dead():
    torch.manual_seed(0)
    layer, plain = make_head("nmf_gelu", 6, 4)[0], make_head("nmf", 6, 4)[0]
    plain.load_state_dict(layer.state_dict())
    features, labels = torch.rand(9, 6), torch.arange(9) % 4
    torch.testing.assert_close(layer.eval().predict(features).probs, plain.eval().predict(features).probs)
    for head in (layer, plain):
        head.train()(features, labels).nll.backward()
    assert (layer.raw_loadings.grad != 0).all()
    assert torch.equal(plain.raw_loadings.grad == 0, plain.raw_loadings <= 0)


def test_a_pruned_loading_gets_no_gradient():
    layer = make_head("nmf_gelu", 6, 4)[0]
    is_zero = torch.zeros(6, 4, dtype=torch.bool)
    is_zero[2] = True
    layer.zero_loadings(is_zero)
    layer(torch.rand(9, 6), torch.arange(9) % 4).nll.backward()
    assert (layer.raw_loadings.grad[is_zero] == 0).all()
    assert (layer.factor_loadings[is_zero] == 0).all()
