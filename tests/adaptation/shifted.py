"""A tiny network with BatchNorm trained on one domain, and a shifted one with labels that nothing may look at."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PretrainedConfig


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, 8, 2), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(torch.relu(self.conv(x)))


class Tiny(nn.Module):
    """Three BatchNorm layers and a head, with the names that a model of transformers has."""

    main_input_name = "pixel_values"

    def __init__(self, num_labels: int = 3):
        super().__init__()
        self.config = PretrainedConfig(num_labels=num_labels)
        self.first = nn.BatchNorm2d(2)
        self.layers = nn.ModuleList([Block(2), Block(8)])
        self.classifier = nn.Linear(8, num_labels)

    def forward(self, pixel_values, labels=None):
        x = self.layers[1](self.layers[0](self.first(pixel_values)))
        logits = self.classifier(x.mean((2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def images(count: int = 96, *, seed: int = 0, shifted: bool = False) -> dict[str, torch.Tensor]:
    """Two-channel images of three classes; shifted ones are brighter and of another contrast."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    means = torch.tensor([[2.0, 0.0], [-1.0, 2.0], [-1.0, -2.0]])[labels]
    pixels = means[:, :, None, None] + torch.randn(count, 2, 3, 3, generator=generator)
    if shifted:
        pixels = pixels * torch.tensor([0.5, 1.6])[:, None, None] + torch.tensor([3.0, -4.0])[:, None, None]
    return {"pixel_values": pixels, "labels": labels}


def trained() -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, source = Tiny().train(), images()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(40):
            optimizer.zero_grad()
            model(**source)["loss"].backward()
            optimizer.step()
        optimizer.zero_grad()
        return model.eval()


def accuracy(model: nn.Module, batch: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        predicted = model(pixel_values=batch["pixel_values"])["logits"].argmax(-1)
    return (predicted == batch["labels"]).float().mean().item()


def cut(batch: dict[str, torch.Tensor], size: int) -> list[dict[str, torch.Tensor]]:
    count = len(batch["pixel_values"])
    return [{k: v[start : start + size] for k, v in batch.items()} for start in range(0, count, size)]


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def flags(model: nn.Module) -> list:
    return [[p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]]
