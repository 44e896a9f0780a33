"""How far an answer can be trusted: probabilities that mean what they say."""

import torch
import torch.nn.functional as F


def fit_temperature(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the temperature that minimises the negative log-likelihood of softmax(logits / temperature).

    `logits` float [N, classes] and `targets` int64 [N] must come from pictures the model was not trained on.
    Between 0.05 and 20; 1 where nothing can be fitted. Source: Guo et al. 2017, arXiv 1706.04599.
    """
    logits = logits.double()
    log_temperature = torch.zeros((), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log_temperature.exp(), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    temperature = log_temperature.exp().item()
    return min(max(temperature, 0.05), 20.0) if temperature == temperature else 1.0
