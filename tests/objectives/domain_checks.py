"""What is tried with every distance between domains: batches at the edge of what it is defined for, and compiling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from hf_transfer import Objective, TransferBatch


def degenerate_batches(count: int, *, width: int = 5, classes: int = 3) -> Iterator[TransferBatch]:
    """
    Batches of 1 to 9 rows, with features that vary, are constant, are zero, lie at two points or are equal in the
    domains, of sizes from 1e-6 to 1e4; logits up to 1e4; any number of domains out of two; labels of all, of the
    source, or of nobody.
    """
    generator = torch.Generator().manual_seed(0)

    def integer(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    for number in range(count):
        rows = 1 + integer(9)
        domain = [torch.zeros(rows), torch.ones(rows), (torch.arange(rows) > 0), torch.arange(rows) % 2][integer(4)]
        domain = domain.long()
        features = torch.randn(rows, width, generator=generator)
        kind = number % 5
        if kind == 1:
            features = features[:1].repeat(rows, 1)
        elif kind == 2:
            features = torch.zeros(rows, width)
        elif kind == 3:
            features = features[:1] + domain.unsqueeze(1)
        elif kind == 4:
            features = features[torch.arange(rows) // 2]
        features = features * [1e-6, 1.0, 100.0, 1e4][integer(4)] + [0.0, 1e4][integer(2)]
        logits = torch.randn(rows, classes, generator=generator) * [0.0, 1.0, 1e4][integer(3)]
        labels = torch.randint(classes, (rows,), generator=generator)
        labels = [labels, torch.where(domain == 0, labels, -100), torch.full((rows,), -100)][integer(3)]
        progress = float(torch.rand((), generator=generator))
        yield TransferBatch(
            features=features.requires_grad_(),
            logits=logits.requires_grad_(),
            labels=labels,
            domain=domain,
            progress=progress,
        )


def check_degenerate_batches(objective: Objective, count: int = 1000) -> list[float]:
    """The values of the term in many such batches, of which each is finite and has finite gradients."""
    values = []
    for batch in degenerate_batches(count):
        loss = objective(batch)
        assert batch.logits is not None
        gradients = torch.autograd.grad(loss, [batch.features, batch.logits], allow_unused=True)
        assert loss.dtype == torch.float32 and loss.isfinite(), batch
        assert gradients[0] is not None, batch  # every rank runs the same backward
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients), batch
        values.append(loss.item())
    return values


def check_one_graph(objective: Objective) -> None:
    """Compiled, the term is what it is without: in one graph, which nothing that reads a value back would leave."""
    generator = torch.Generator().manual_seed(0)
    domain = torch.tensor([0, 1, 1, 0, 1, 0, 1])
    features = torch.randn(7, 5, generator=generator) + domain.unsqueeze(1)
    logits, labels = 3 * torch.eye(3)[torch.arange(7) % 3], torch.tensor([0, -100, -100, 1, -100, 2, -100])
    batch = TransferBatch(features, logits, labels, domain)
    objective(batch)  # looks at the domains, once

    def term(features: torch.Tensor, domain: torch.Tensor, progress: torch.Tensor) -> torch.Tensor:
        return objective(replace(batch, features=features, domain=domain, progress=progress))

    compiled = torch.compile(term, fullgraph=True, backend="eager")
    for rows, progress in ((domain, 0.25), (0 * domain, 0.5)):
        results = []
        for function in (term, compiled):
            leaf = features.clone().requires_grad_()
            loss = function(leaf, rows, torch.tensor(progress))
            results.append((loss, *torch.autograd.grad(loss, leaf)))
        torch.testing.assert_close(*results)
    torch._dynamo.reset()
