"""Predicting never changes a model: not its mode, statistics or weights, whatever other threads do meanwhile."""

import copy
import functools
import pickle
import sys
import threading

import pytest
import torch
from torch import nn

from bndl_hf.model.evaluation_view import evaluation_view
from bndl_hf.model.predictive import BNDLPrediction
from model.tiny import tiny_model


def modes(model):
    return [module.training for module in model.modules()]


def in_threads(work, count=8):
    """Run work(n) in `count` threads that switch as often as they can; raise what one of them raised."""
    errors = []

    def guarded(n):
        torch.set_num_threads(1)  # as the test's own thread: another number may round otherwise
        try:
            work(n)
        except Exception as error:  # noqa: BLE001 - raised below, in the thread of the test
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(count)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 3, 30, 30, generator=generator) for _ in range(5)]


def test_threads_that_predict_on_a_model_in_training_mode_agree_to_the_last_bit(resnet_model, images):
    model = resnet_model
    expected = [model.predict(image).probs for image in images]
    parts = [model.explain(image).contributions for image in images]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    was = modes(model)
    assert all(was)

    def work(n):
        for i in range(n, n + 50):
            assert torch.equal(model.predict(images[i % 5]).probs, expected[i % 5])
            assert torch.equal(model.explain(images[i % 5]).contributions, parts[i % 5])

    in_threads(work)
    assert modes(model) == was
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_thread_that_trains_sees_no_other_mode_while_others_predict(resnet_model, images):
    model = resnet_model.train()
    seen = set()
    first = next(module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d))
    first.register_forward_hook(lambda module, *_: seen.add((module is first, module.training, first.training)))

    def work(n):
        for i in range(10):
            if n == 0:
                model(images[i % 5])
            else:
                model.predict(images[i % 5])

    in_threads(work, count=4)
    # Training ran the module itself, in training mode; predicting ran a view of it, in evaluation mode.
    assert seen == {(True, True, True), (False, False, True)}


def test_a_model_in_evaluation_mode_is_its_own_view_and_a_frozen_backbone_is_not_switched(vit_model):
    assert evaluation_view(vit_model) is vit_model
    vit_model.freeze_backbone()
    view = evaluation_view(vit_model.train())
    assert view is not vit_model
    assert not any(modes(view))
    assert vit_model.training
    assert [id(p) for p in view.parameters()] == [id(p) for p in vit_model.parameters()]


def test_what_is_replaced_hooked_or_written_after_a_prediction_is_in_the_next(vit_model, images):
    model = vit_model.train()
    model.predict(images[0])
    with torch.no_grad():
        model.decision_layer.raw_loadings.mul_(3)
    model.decision_layer.projection = nn.Linear(model.config.feature_dim, model.config.num_factors)
    hooked = []
    model.backbone.register_forward_hook(lambda *_: hooked.append(1))
    got = model.predict(images[0])
    assert hooked == [1]
    assert torch.equal(got.probs, model.eval().predict(images[0]).probs)


def test_a_module_met_twice_is_one_module_in_the_view():
    shared = nn.Dropout(0.5)
    view = evaluation_view(nn.Sequential(shared, nn.Linear(2, 2), shared))
    assert view[0] is view[2]
    assert view[0] is not shared


class Aliased(nn.Module):
    """A module that reaches its child by other ways than its own attribute."""

    def __init__(self, how):
        super().__init__()
        self.child = nn.Dropout(0.9)
        child, method = self.child, self.child.forward
        ways = {
            "list": lambda: setattr(self, "ways", [child]),
            "tuple in a dictionary": lambda: setattr(self, "ways", {"a": (child,)}),
            "attribute": lambda: object.__setattr__(self, "ways", child),
            "closure over the module": lambda: setattr(child, "forward", lambda x: type(child).forward(child, x)),
            "closure over its method": lambda: setattr(child, "forward", functools.wraps(method)(lambda x: method(x))),
            "partial function of its method": lambda: setattr(child, "forward", functools.partial(method)),
            "script": lambda: setattr(self, "child", torch.jit.script(child)),
        }
        ways[how]()
        self.itself = [self, [self]]
        self.itself.append(self.itself)

    def forward(self, x):
        child = getattr(self, "ways", self.child)
        child = child["a"] if isinstance(child, dict) else child
        return (child if isinstance(child, nn.Module) else child[0])(x)


@pytest.mark.parametrize(
    "how",
    [
        "list",
        "tuple in a dictionary",
        "attribute",
        "closure over the module",
        "closure over its method",
        "partial function of its method",
        "script",
    ],
)
def test_a_module_reached_by_another_way_is_in_evaluation_mode_too(how):
    module, x = Aliased(how), torch.ones(4, 50)
    assert not torch.equal(module(x), x)
    assert torch.equal(evaluation_view(module)(x), x)
    assert not torch.equal(module(x), x)
    assert all(modes(module))


def test_a_prediction_follows_weights_assigned_or_cast_after_an_earlier_one(vit_model, images):
    model = vit_model.train()
    model.predict(images[0])
    weights = {name: 1.3 * value for name, value in model.state_dict().items()}
    swapped = torch.func.functional_call(Predicting(model), {f"model.{n}": w for n, w in weights.items()}, (images[0],))
    model.load_state_dict(weights, assign=True)
    assert torch.equal(model.predict(images[0]).probs, swapped)
    for dtype in (torch.bfloat16, torch.float64):
        got = model.to(dtype).predict(images[0]).probs
        assert torch.equal(got, copy.deepcopy(model).eval().predict(images[0]).probs)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again.predict(images[0]).probs, got)


class Predicting(nn.Module):
    """A model whose forward is its prediction, for `functional_call`."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.predict(x).probs


def test_methods_kept_as_attributes_and_compiled_modules_run_in_the_view_s_mode():
    class Kept(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.999)
            self.run = self.twice

        def twice(self, x):
            return 2 * self.drop(x)

        def forward(self, x):
            return self.run(x)

    x = torch.ones(100)
    assert torch.equal(evaluation_view(Kept())(x), 2 * x)
    compiled = torch.compile(Kept(), backend="eager")
    assert torch.equal(evaluation_view(nn.Sequential(compiled))(x), 2 * x)
    inside = Kept()
    inside.compile(backend="eager")
    assert torch.equal(evaluation_view(nn.Sequential(inside))(x), 2 * x)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_model_whose_weights_accelerate_offloads_answers_as_before(images, mode):
    accelerate = pytest.importorskip("accelerate")
    model = tiny_model("resnet")
    expected, evidence = model.predict(images[0]), model.explain(images[0])
    drawn = model.predict(images[0], method="monte_carlo", generator=torch.Generator().manual_seed(0))
    accelerate.cpu_offload(model.train(mode == "train"), execution_device="cpu")
    assert all(parameter.is_meta for parameter in model.decision_layer.parameters())
    got = model.predict(images[0])
    again = model.predict(images[0], method="monte_carlo", generator=torch.Generator().manual_seed(0))
    for name in BNDLPrediction.__dataclass_fields__:
        for one, other in ((got, expected), (again, drawn)):
            left, right = getattr(one, name), getattr(other, name)
            assert (left is right is None) or torch.equal(left, right), name
    assert torch.equal(model.explain(images[0]).contributions, evidence.contributions)
    torch.testing.assert_close(model.eval()(images[0]).logits.softmax(-1), expected.probs, rtol=0, atol=1e-6)
    assert all(parameter.is_meta for parameter in model.decision_layer.parameters())


def test_a_model_on_disk_and_in_memory_by_a_device_map_answers_as_before(tmp_path, images):
    pytest.importorskip("accelerate")
    model = tiny_model("resnet")
    model.save_pretrained(tmp_path / "model")
    spread = type(model).from_pretrained(
        tmp_path / "model",
        device_map={"backbone": "cpu", "decision_layer": "disk"},
        offload_folder=str(tmp_path / "offload"),
    )
    assert torch.equal(spread.predict(images[0]).probs, model.predict(images[0]).probs)
    assert torch.equal(spread(images[0]).logits, model(images[0]).logits)


def test_an_adapter_of_peft_in_training_mode_predicts_as_in_evaluation_mode(images):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        tiny_model("vit"),
        peft.LoraConfig(target_modules=["q_proj", "query"], lora_dropout=0.9, modules_to_save=["decision_layer"]),
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    expected = adapted.eval().predict(images[0]).probs
    assert torch.equal(adapted.train().predict(images[0]).probs, expected)
    with adapted.disable_adapter():
        assert not torch.equal(adapted.predict(images[0]).probs, expected)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_forward_and_predictions_run_on_the_meta_device(mode, images):
    model = tiny_model("resnet").to("meta").train(mode == "train")
    image = images[0].to("meta")
    assert model(image).logits.shape == (3, 5)
    assert model(image, labels=torch.zeros(3, dtype=torch.long, device="meta")).loss.is_meta
    assert model.predict(image).probs.shape == (3, 5)
    assert model.predict(image, method="monte_carlo", num_samples=4).logits_samples.shape == (4, 3, 5)
