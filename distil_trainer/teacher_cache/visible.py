"""Which keys the attended tokens of a row may look at, as bits: next to nothing beside queries and keys.

Most rows need none: without windows a token of an encoder looks at all attended tokens, however its batch is padded.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distil_trainer.errors import CaptureError
from distil_trainer.losses import Heads


def packed(heads: Heads, tokens: Tensor) -> list[Tensor]:
    """For each row uint8 [bits / 8] of its pairs of attended tokens; empty where each may look at all.

    Args:
        heads: of B rows.
        tokens: bool [B, T], the attended tokens.

    Raises:
        CaptureError: heads of one layer see different keys.
    """
    everything = torch.empty(0, dtype=torch.uint8)
    if heads.visible is None and not heads.causal:
        return [everything] * len(tokens)
    pairs = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=tokens.device)
    if heads.visible is not None:
        pairs = heads.visible[(None,) * (4 - heads.visible.ndim)]
        if not pairs.eq(pairs[:, :1]).all():
            raise CaptureError(
                "a teacher cache holds one mask for all heads of a layer, but here heads see different keys. Leave "
                "teacher_cache out, or align hidden states or logits of this model."
            )
    length = tokens.size(1)
    pairs = pairs[:, 0].expand(len(tokens), length, length)
    if heads.causal:
        pairs = pairs.tril()
    blocks = [row[attended][:, attended].cpu() for row, attended in zip(pairs, tokens, strict=True)]
    return [everything if block.all() else torch.from_numpy(np.packbits(block.numpy())) for block in blocks]


def unpacked(bits: Sequence[Tensor], tokens: Tensor) -> tuple[Tensor | None, bool]:
    """`visible` and `causal` of the heads of a batch, as `losses.Heads` has them, from what `packed` gave for its rows.

    Args:
        bits: of each of B rows.
        tokens: bool [B, T], the attended tokens.
    """
    if not any(len(row) for row in bits):
        return None, False
    places = [row.nonzero().squeeze(1) for row in tokens.cpu()]
    blocks = [_block(row, len(attended)) for row, attended in zip(bits, places, strict=True)]
    if all(torch.equal(block, torch.ones_like(block).tril()) for block in blocks):
        return None, True
    visible = torch.zeros(len(bits), 1, tokens.size(1), tokens.size(1), dtype=torch.bool)
    for row, attended, block in zip(visible, places, blocks, strict=True):
        row[0, attended[:, None], attended] = block
    return visible.to(tokens.device), False


def _block(bits: Tensor, length: int) -> Tensor:
    """Bool [length, length]."""
    if not len(bits):
        return torch.ones(length, length, dtype=torch.bool)
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=length**2).view(bool)).view(length, length)
