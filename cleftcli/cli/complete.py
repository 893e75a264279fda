"""What the shell offers for a word that is being typed, beside what Typer knows."""

from __future__ import annotations

from cleftcli.errors import CleftError


def datasets(incomplete: str) -> list[str]:
    """Addresses of the arrays in the store that was typed; paths outside are the shell's own."""
    from cleftcli.volumes import is_remote, list_volumes, split_address

    try:
        container, dataset = split_address(incomplete)
        typed = incomplete.rstrip("/").removesuffix(dataset).rstrip("/")
        if typed == incomplete or is_remote(container):
            return []
        found = list_volumes(container)
    except (CleftError, OSError):
        return []
    return [f"{typed}{address.removeprefix(container)}" for address in found]


def devices() -> list[str]:
    """Names that `--device` takes everywhere."""
    return ["auto", "cpu", "cuda"]
