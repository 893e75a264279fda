"""Further maps of a prediction: outputs beside its own that share its ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cleftcli import __version__
from cleftcli.blockwise import refuse_if_held
from cleftcli.errors import ConflictError, InputError
from cleftcli.model.objectives import Map
from cleftcli.prediction import map_address
from cleftcli.resumable import Output
from cleftcli.volumes import (
    create_volume,
    has_array,
    is_ours,
    list_volumes,
    open_volume,
    remove_array,
)


def beside(output: Output, maps: Mapping[str, Map], value: str) -> list[Output]:
    """The outputs of further maps, like that of the first.

    Args:
        output: the first.
        maps: the others by name.
        value: how 0 to 1 is read from what is stored, in words.
    """
    return [
        replace(
            output,
            address=map_address(output.address, name),
            attributes={
                "content": name,
                f"{name}_is": f"{one.low:g} + {one.high - one.low:g} * {value}",
                "run": output.attributes["run"],
            },
        )
        for name, one in maps.items()
    ]


def begin(output: Output, further: Sequence[Output], *, overwrite: bool) -> None:
    """Make the further outputs that a kill has not left, before the blocks that write to them.

    Args:
        output: the one that has the ledger; `overwrite` removes it with the others.
        further: like it but for address and attributes.
        overwrite: replace what cleft made.

    Raises:
        ConflictError: an array is there that is not this run's, or one that was begun is not.
    """
    if further and overwrite:
        _remove(output, further)
    elif further:
        _refuse(output, further)
    _create(further, complete=False)


def finish(further: Sequence[Output]) -> None:
    """Mark outputs as complete."""
    _create(further, complete=True)


def _create(outputs: Sequence[Output], *, complete: bool) -> None:
    for output in outputs:
        create_volume(
            output.address,
            shape=output.plan.roi.shape,
            dtype=output.dtype,
            chunks=output.chunks,
            space=output.space,
            attributes={
                **output.attributes,
                "made_by": f"cleft {__version__}",
                "complete": complete,
            },
        )


def _remove(output: Output, further: Sequence[Output]) -> None:
    """Remove all of them, unless somebody writes them or one is not ours."""
    _refuse_strangers(output, further)
    if output.ledger.exists():
        refuse_if_held(output.ledger)
    for one in (*further, output):
        if is_ours(one.address):
            remove_array(one.address)


def _refuse(output: Output, further: Sequence[Output]) -> None:
    """Refuse to go on with what is not there, or to begin where something is."""
    _refuse_strangers(output, further)
    begun = output.ledger.exists()
    for one in further:
        there = has_array(one.address)
        if begun and not there:
            raise ConflictError(f"{output.address} was begun without {one.address}; --overwrite it")
        if there and not begun and not _is_bare(one.address):
            raise ConflictError(f"{one.address} exists; choose another -o, or --overwrite it")


def _refuse_strangers(output: Output, further: Sequence[Output]) -> None:
    begun = output.ledger.exists()  # then its array may be there without saying whose it is
    for one in further if begun else (*further, output):
        if has_array(one.address) and not is_ours(one.address):
            raise ConflictError(f"{one.address} was not made by cleft; it stays")
    there = has_array(output.address)
    if not there and output.container.exists() and not _all_ours(output.container):
        raise ConflictError(f"{output.container} was not made by cleft; choose another -o")


def _is_bare(address: str) -> bool:
    """Whether an array holds nothing: a kill came between making it and the ledger."""
    scan = open_volume(address).scan()
    return scan.missing == scan.chunks


def _all_ours(container: Path) -> bool:
    try:
        return all(map(is_ours, list_volumes(str(container))))
    except InputError:
        return not any(container.iterdir())
