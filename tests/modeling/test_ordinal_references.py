"""The ordinal objective against the ordered logit of statsmodels, and beside CORAL and CORN of coral-pytorch."""

import numpy as np
import pytest
import torch
from coral_pytorch.dataset import levels_from_labelbatch
from coral_pytorch.losses import coral_loss, corn_loss
from statsmodels.miscmodels.ordinal_model import OrderedModel
from torch import Tensor, nn
from torch.nn import functional as F

from cr_hf.evaluation.metrics import median_class
from cr_hf.modeling.objectives import OrderedThresholds, ordinal_log_probabilities

SLOPES, CUTS = [1.0, -0.5, 0.25], [-1.2, 0.1, 0.6, 2.0]


def sample(rows: int, cuts: list[float] = CUTS) -> tuple[Tensor, Tensor]:
    """Rows of a proportional-odds model: the class is how many cuts a logistic variable passes."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    uniform = torch.rand(rows, 1, generator=generator, dtype=torch.float64)
    latent = features @ torch.tensor(SLOPES, dtype=torch.float64)[:, None] + torch.logit(uniform)
    return features, (latent > torch.tensor(cuts)).sum(1)


class Ordinal(nn.Module):
    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.score = nn.Linear(3, 1, bias=False).double()
        self.thresholds = OrderedThresholds(num_labels).double()

    def forward(self, features: Tensor) -> Tensor:
        return ordinal_log_probabilities(self.score(features), self.thresholds())


def fit(parameters: list[Tensor], loss: object) -> float:
    optimizer = torch.optim.LBFGS(parameters, max_iter=400, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    return closure().item()


def test_maximum_likelihood_is_that_of_statsmodels() -> None:
    features, labels = sample(800)
    torch.manual_seed(0)
    model = Ordinal(5)
    loss = fit(list(model.parameters()), lambda: F.cross_entropy(model(features), labels))
    reference = OrderedModel(labels.numpy(), features.numpy(), distr="logit").fit(method="bfgs", disp=False, gtol=1e-8)
    assert -loss * 800 == pytest.approx(reference.llf, rel=1e-7)
    np.testing.assert_allclose(model.score.weight[0].detach().numpy(), reference.params[:3], rtol=1e-3, atol=1e-4)
    cuts = reference.model.transform_threshold_params(reference.params)[1:-1]
    np.testing.assert_allclose(model.thresholds().detach().numpy(), cuts, rtol=1e-3, atol=1e-4)
    probabilities = model(features).softmax(-1).detach().numpy()
    np.testing.assert_allclose(probabilities, reference.predict(), rtol=1e-2, atol=1e-4)


def test_with_two_classes_all_of_them_are_logistic_regression() -> None:
    features, labels = sample(200, [0.3])
    torch.manual_seed(0)
    model = Ordinal(2)
    logit = model.score(features) - model.thresholds()
    ours = F.cross_entropy(model(features), labels)
    levels = levels_from_labelbatch(labels, num_classes=2).double()
    for other in (
        F.binary_cross_entropy_with_logits(logit[:, 0], labels.double()),
        coral_loss(logit, levels),
        corn_loss(logit, labels, num_classes=2),
    ):
        torch.testing.assert_close(ours, other)


def test_coral_and_corn_agree_where_the_model_holds() -> None:
    """CORAL fits the same thresholds, by a composite likelihood that is less efficient; CORN has a slope per class."""
    features, labels = sample(6000)
    torch.manual_seed(0)
    model = Ordinal(5)
    fit(list(model.parameters()), lambda: F.cross_entropy(model(features), labels))
    levels = levels_from_labelbatch(labels, num_classes=5).double()
    coral = Ordinal(5)
    fit(list(coral.parameters()), lambda: coral_loss(coral.score(features) - coral.thresholds(), levels))
    torch.testing.assert_close(coral.thresholds(), model.thresholds(), rtol=0.1, atol=0.05)
    torch.testing.assert_close(coral.score.weight, model.score.weight, rtol=0.1, atol=0.05)
    corn = nn.Linear(3, 4).double()
    fit(list(corn.parameters()), lambda: corn_loss(corn(features), labels, num_classes=5))
    medians = torch.from_numpy(median_class(model(features).softmax(-1).detach().numpy()))
    passed = corn(features).sigmoid().cumprod(1)
    assert ((passed > 0.5).sum(1) == medians).double().mean() > 0.9
    assert model.score.weight.detach()[0].tolist() == pytest.approx(SLOPES, abs=0.1)
