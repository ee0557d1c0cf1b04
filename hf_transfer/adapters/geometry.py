"""What models read off their convolutions, on PEFT's layers around these too."""

from __future__ import annotations

from torch import nn


_READ = ("dilation", "groups", "in_channels", "kernel_size", "out_channels", "padding", "stride")

__all__ = ["show_geometry"]


def show_geometry(model: nn.Module) -> None:
    """
    Give PEFT's layers around convolutions the stride and the other sizes of what they hold.

    MobileNetV1 and MobileNetV2 pad by the stride of the layer that follows. PEFT 0.21 has no such attribute on its
    layers, and the first forward of the adapter model would fail. Layers that have one keep it.

    Args:
        model (`nn.Module`): a model that holds adapters.

    Example:
        >>> from peft import LoraConfig, inject_adapter_in_model
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten())
        >>> model = inject_adapter_in_model(LoraConfig(target_modules=["0"]), model)
        >>> hasattr(model[0], "stride")
        False
        >>> show_geometry(model)
        >>> model[0].stride
        (2, 2)
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            held = module.get_base_layer()
            if isinstance(held, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                for key in _READ:
                    if not hasattr(module, key):
                        setattr(module, key, getattr(held, key))
