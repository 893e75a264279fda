"""CleftNet: a residual 3-D U-net whose pooling, bottom and upsampling are feature augmentors.

Source: Liu & Ji, IEEE TMI 2021, sections III-C and IV-B.
Deviation: depth is halved only while it is more than 1; see docs/papers.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from cleftcli.errors import UsageError
from cleftcli.geometry import Zyx
from cleftcli.model.encoder_decoder import LITE_TILE, LITE_WIDTHS, TILE, WIDTHS, EncoderDecoder
from cleftcli.model.feature_augmentor import FeatureAugmentor
from cleftcli.model.layers import conv_residual, deconvolution, max_pool

LITE = {
    "input_shape": LITE_TILE,
    "channels": LITE_WIDTHS,
    "key_channels": 16,
    "max_keys": 256,
}


class Network(EncoderDecoder):
    """(n, 1, *input_shape) -> (n, out_channels, *input_shape), without activation.

    Args:
        out_channels: 2 with the label augmentor: mask logit and boundary.
        input_shape: zyx of the only tile it accepts: learned queries are tied to positions.
        channels: of the encoder blocks, and last of the bottom block.
        feature_augmentor: False is the ablation of tables IV and V: max pooling and transposed
            convolutions, as a ResUnet.
        query: "full" is the paper's, a learned vector for each position; "separable" a sum of one
            for each z, y and x, which learns from fewer patches; "input" self-attention, as in
            table VI; "frozen" and "uniform" are controls that learn none.
        key_channels: see FeatureAugmentor, as the following.
        value_channels: None is as many as keys have.
        max_keys: None is the paper's exact attention.
        scale: of the logits.

    Raises:
        UsageError: a query without feature augmentors.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        input_shape: Zyx = TILE,
        channels: Sequence[int] = WIDTHS,
        feature_augmentor: bool = True,
        query: Literal["full", "separable", "frozen", "uniform", "input"] = "full",
        key_channels: int = 32,
        value_channels: int | None = None,
        max_keys: int | None = None,
        scale: float = 1.0,
    ) -> None:
        if query != "full" and not feature_augmentor:
            raise UsageError(
                f"query = {query!r} takes feature augmentors; leave out one of the two"
            )
        parts: dict[str, Any] = {"down": max_pool, "up": deconvolution}
        if feature_augmentor:
            augment = partial(
                FeatureAugmentor,
                query=query,
                key_channels=key_channels,
                value_channels=value_channels,
                max_keys=max_keys,
                scale=scale,
            )
            parts = {"down": augment, "up": augment, "bottom": lambda c, s: augment(c, s, s)}
        super().__init__(
            out_channels=out_channels,
            input_shape=input_shape,
            channels=channels,
            block=conv_residual,
            **parts,
        )
