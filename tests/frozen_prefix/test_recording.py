from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from hf_transfer.frozen_prefix.extent import Prefix, Unsuitable
from hf_transfer.frozen_prefix.recording import StandIn, by_row, record
from hf_transfer.frozen_prefix.skipping import Skipping
from hf_transfer.tap import first_tensor


Pair = namedtuple("Pair", ["hidden", "weights"])


class Block(nn.Module):
    """Doubles and shifts, and returns in the structure asked for."""

    def __init__(self, wrap=lambda hidden: hidden):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.wrap = wrap

    def forward(self, hidden: Tensor, mask: Tensor | None = None):
        return self.wrap(hidden * self.weight + 1)


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(0.0)
        self.activation = nn.Tanh()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.activation(x))
        for block in self.blocks:
            x = first_tensor(block(x))
        return self.head(self.activation(x))


def prefix_of(count: int) -> Prefix:
    return Prefix(count, tuple(f"blocks.{number}" for number in range(count)), (), ())


def recorded(net: Net, x: Tensor, count: int = 2, **options):
    return record(net, lambda: net(x), prefix_of(count), rows=len(x), **{"stem": False, **options})


def weighty(hidden: Tensor) -> Tensor:
    return torch.ones(len(hidden), 7)


STRUCTURES = {
    "tensor": lambda hidden: hidden,
    "tuple": lambda hidden: (hidden, weighty(hidden)),
    "tuple of one": lambda hidden: (hidden,),
    "list": lambda hidden: [hidden, None],
    "named tuple": lambda hidden: Pair(hidden, weighty(hidden)),
    "dict": lambda hidden: {"hidden": hidden, "size": 3},
    "output": lambda hidden: BaseModelOutput(last_hidden_state=hidden, attentions=(weighty(hidden),)),
    "nested": lambda hidden: ((hidden, (4, 4)), weighty(hidden)),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_stand_in_returns_the_structure_of_the_block(name):
    wrap = STRUCTURES[name]
    net = Net(Block(wrap), Block(wrap), Block())
    seen = recorded(net, torch.randn(3, 5, 4))
    assert seen.boundary == "blocks.1"
    hidden = torch.randn(2, 9, 4)
    ours, real = seen.stand_ins["blocks.1"].around(hidden), wrap(hidden)
    assert type(ours) is type(real)
    assert first_tensor(ours) is hidden
    if isinstance(real, ModelOutput):
        assert ours.last_hidden_state is hidden
    if isinstance(real, dict) and "size" in real:
        assert ours["size"] == 3
    if name == "nested":
        assert ours[0][1] == (4, 4)
        assert ours[1] is None


def test_what_was_stored_is_the_output_of_the_last_block():
    net = Net(Block(), Block(), Block())
    x = torch.randn(3, 5, 4)
    seen = recorded(net, x)
    torch.testing.assert_close(seen.hidden, 4 * torch.tanh(x) + 3)
    assert seen.calls == 1
    assert not seen.hidden.requires_grad


def test_a_block_that_runs_repeatedly_is_stored_after_its_last_run():
    block = Block()
    net = Net(block, block)  # one module under two names
    x = torch.randn(3, 5, 4)
    seen = record(net, lambda: net(x), Prefix(1, ("blocks.0",), (), ()), rows=3, stem=False)
    assert seen.calls == 2
    torch.testing.assert_close(seen.hidden, 4 * torch.tanh(x) + 3)


def test_what_rests_is_what_runs_below_alone_and_in_training_mode():
    net = Net(Block(), Block(), Block()).train()
    assert recorded(net, torch.randn(3, 5, 4)).before == [net.dropout]  # the activation runs above, too
    net.dropout.eval()
    assert recorded(net, torch.randn(3, 5, 4)).before == []


def test_hooks_are_gone_afterwards_and_after_an_error():
    net = Net(Block(), Block())
    recorded(net, torch.randn(3, 5, 4))
    with pytest.raises(RuntimeError):
        recorded(net, torch.randn(3, 5, 9))
    assert not any(module._forward_hooks for module in net.modules())


def test_skipping_gives_the_logits_of_the_whole_and_leaves_no_trace():
    net = Net(Block(STRUCTURES["tuple"]), Block(STRUCTURES["output"]), Block())
    x = torch.randn(3, 5, 4)
    seen = recorded(net, x)
    skipping = Skipping(net, seen)
    skipping.put_on()
    whole = net(x)
    assert not skipping.used
    skipping.give(seen.hidden)
    torch.testing.assert_close(net(torch.full_like(x, torch.nan)), whole)
    assert skipping.used
    skipping.take_off()
    assert not any("forward" in vars(module) for module in net.modules())
    assert net(torch.full_like(x, torch.nan)).isnan().all()


class Longer(Block):
    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(hidden).repeat_interleave(2, dim=1)


def test_a_block_that_changes_the_length_is_skipped_only_where_all_rows_have_one():
    net = Net(Longer(), Block(), Block())
    x = torch.randn(3, 5, 4)
    seen = recorded(net, x, stem=True)
    stand_in = seen.stand_ins["blocks.0"]
    assert stand_in.source is None
    passed = stand_in.passing((torch.randn(2, 5, 4),), {}, torch.randn(2, 10, 4))
    assert passed.shape == (2, 10, 4)
    with pytest.raises(Unsuitable, match="`blocks.0` returns .* not known for other lengths - train without"):
        recorded(net, x)


def test_the_pieces_of_a_row_are_stored_with_it():
    class Cut(Block):
        def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
            return super().forward(hidden).flatten(0, 1).unsqueeze(1)

    net = Net(Block(), Cut(), Block())
    x = torch.randn(3, 5, 4)
    seen = recorded(net, x, stem=True)
    assert seen.hidden.shape == (3, 5, 1, 4)
    assert seen.stand_ins["blocks.1"].around(seen.hidden[:2]).shape == (10, 1, 4)
    with pytest.raises(Unsuitable, match="what belongs to one row cannot be told"):
        recorded(net, x)


def test_by_row_leaves_whole_rows_alone():
    hidden = torch.randn(6, 4)
    assert by_row(hidden, 6) is hidden
    assert torch.equal(by_row(hidden, 2), hidden.view(2, 3, 4))


def test_a_parameter_that_trains_below_is_refused_by_name():
    net = Net(Block(), Block(), Block())
    net.blocks[0].weight.requires_grad_(True)
    with pytest.raises(Unsuitable, match="`blocks.0.weight` trains and takes part .* - freeze it, too"):
        recorded(net, torch.randn(3, 5, 4))


def test_an_input_that_wants_a_gradient_is_none(tmp_path):
    """`enable_input_require_grads` of PEFT sets it so; no parameter stands behind it."""
    assert recorded(Net(Block(), Block()), torch.randn(3, 5, 4, requires_grad=True)).calls == 1


def test_blocks_that_do_not_run_or_return_nothing_are_refused():
    net = Net(Block(), Block())
    with pytest.raises(Unsuitable, match=r"ran none of the frozen blocks \(`blocks.0`"):
        record(net, lambda: None, prefix_of(2), rows=3, stem=False)

    @dataclass
    class Nothing:
        size: int = 3

    net = Net(Block(), Block(lambda hidden: Nothing()))
    with pytest.raises(Unsuitable, match="`blocks.1` returns Nothing without a tensor"):
        recorded(net, torch.randn(3, 5, 4))


def test_a_named_input_is_handed_through():
    stand_in = StandIn(skeleton=_hole(), source="hidden", shape=(3, 5, 4), dtype=torch.float32, rows=3)
    given = torch.randn(2, 7, 4)
    assert stand_in.passing((), {"hidden": given}, torch.randn(2, 7, 4)) is given


def _hole():
    from hf_transfer.frozen_prefix.recording import _Hole

    return _Hole
