"""MAE: a masked autoencoder, which learns from raw sections alone by filling in hidden patches.

Source: He et al. 2022; for serial sections Cheng et al. 2023 (Front. Neuroinform. 17:1118419).
Deviation: no class token; targets and tokens share one order, which the latter's code mixes up.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cleftcli.errors import UsageError
from cleftcli.geometry import Zyx, zyx
from cleftcli.model.encoder_decoder import LITE_TILE, TILE
from cleftcli.model.layers import check_input
from cleftcli.model.transformer import PATCH, TokenEncoder, sin_cos, transformer_layers, unpatchify

LITE = {
    "input_shape": LITE_TILE,
    "width": 192,
    "depth": 8,
    "heads": 6,
    "decoder_width": 96,
    "decoder_depth": 2,
    "decoder_heads": 4,
}


class Network(nn.Module):
    """(n, 1, *input_shape) -> (n, 2, *input_shape): raw as it is guessed; 1 where it was hidden.

    In training other patches are hidden each time, by PyTorch's generator; in evaluation always
    the same ones, whatever the tile.

    Args:
        out_channels: 2, as the objective `reconstruction` wants.
        input_shape: zyx of the tile.
        patch: zyx of what becomes one token.
        width: channels of a token.
        depth: transformer layers, which see the visible tokens only.
        heads: of attention.
        decoder_width: channels of a token in the decoder, which sees all and is thrown away.
        decoder_depth: its layers.
        decoder_heads: of attention there.
        hidden: share of the patches that are hidden.

    Raises:
        UsageError: another number of channels, or a share that hides none or all.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        out_channels: int,
        input_shape: Zyx = TILE,
        patch: Zyx = PATCH,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        decoder_width: int = 384,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        hidden: float = 0.75,
    ) -> None:
        super().__init__()
        if out_channels != 2:
            raise UsageError("network mae learns with objective reconstruction only")
        self.input_shape, self.patch = input_shape, zyx(patch)
        self.encoder = TokenEncoder(
            input_shape=input_shape, patch=self.patch, width=width, depth=depth, heads=heads
        )
        self.visible = round((1 - hidden) * math.prod(self.encoder.grid))
        if not 0 < self.visible < math.prod(self.encoder.grid):
            raise UsageError(f"hidden {hidden}: some patches must be hidden and some visible")
        self.narrow = nn.Linear(width, decoder_width)
        self.unseen = nn.Parameter(torch.randn(decoder_width) * 0.02)
        self.register_buffer(
            "positions", sin_cos(self.encoder.grid, decoder_width), persistent=False
        )
        self.decoder = nn.Sequential(
            *transformer_layers(decoder_width, decoder_depth, decoder_heads)
        )
        self.norm = nn.LayerNorm(decoder_width)
        self.head = nn.Linear(decoder_width, math.prod(self.patch))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, z, y, x) float in [-1, 1] -> (n, 2, z, y, x)."""
        check_input(x, self.input_shape)
        visible = self._draw(x)
        seen = self.narrow(self.encoder(x, visible)[-1])
        places = visible[:, :, None]
        tokens = self.unseen.to(seen.dtype).expand(len(x), len(self.positions), -1)
        tokens = tokens.scatter(1, places.expand_as(seen), seen)
        guessed = self.head(self.norm(self.decoder(tokens + self.positions)))
        hidden = torch.ones_like(guessed).scatter(1, places.expand(-1, -1, guessed.shape[2]), 0)
        both = [unpatchify(t, self.encoder.grid, self.patch) for t in (guessed, hidden)]
        return torch.stack(both, dim=1)

    def _draw(self, x: Tensor) -> Tensor:
        """Indices of the tokens that are visible, in raster order: (n, visible)."""
        if self.training:
            lots = torch.rand(len(x), len(self.positions), device=x.device)
        else:
            always = torch.Generator().manual_seed(0)
            lots = torch.rand(len(self.positions), generator=always).to(x.device).expand(len(x), -1)
        return lots.argsort(dim=1)[:, : self.visible].sort(dim=1).values
