"""The paper's comparisons on real data, and controls: equal steps, several seeds, one table.

    CLEFT_DATA=folder python -m tests.benchmarks.ablation OUT [STEPS] [SEEDS]

Each system trains on the default checkpoint's data and is scored as that is: threshold chosen on
one part of the held-out rows, figures from another. A run that is done already is not run again.
"""

import hashlib
import json
import os
import statistics
import sys
from pathlib import Path

from cleftcli import __version__
from cleftcli.jobs.train import train

LA = "mask_and_boundary"
SYSTEMS = {
    "SegNet": ("segnet", "", "mask"),
    "3D U-Net": ("unet3d", "", "mask"),
    "V-Net": ("vnet", "", "mask"),
    "ResUnet": ("resunet", "", "mask"),
    "Attention U-Net": ("attention_unet", "", "mask"),
    "CleftNet without feature augmentors": ("cleftnet", "feature_augmentor = false", LA),
    "CleftNet without label augmentor": ("cleftnet", "", "mask"),
    "CleftNet with self-attention": ("cleftnet", 'query = "input"', LA),
    "CleftNet": ("cleftnet", "", LA),
    "CleftNet, separable queries": ("cleftnet", 'query = "separable"', LA),
    "CleftNet, frozen queries": ("cleftnet", 'query = "frozen"', LA),
    "CleftNet, uniform queries": ("cleftnet", 'query = "uniform"', LA),
}
REGION = '{{ raw = "{0}/volumes/raw", clefts = "{0}/volumes/labels/clefts", roi = "{1}" }}'
CONFIG = """
seed = {seed}
[data]
train = [{train}]
validate = [{validate}]
test = [{test}]
[network]
name = "{network}"
preset = "lite"
options = {{ {options} }}
[objective]
name = "{objective}"
{scale}
[augment]
flip = 0.875
rotate = 0.75
grayscale = 0.5
elastic = {{ probability = 0.5, spacing_nm = 200, sigma_nm = 12 }}
[training]
steps = {steps}
batch_size = 2
learning_rate = 1e-3
warmup_steps = 30
cosine = true
weight_decay = 1e-2
gradient_clip = 1.0
average = 0.98
save_every = 100000
validate_every = 100000
"""
SHOWN = ("cremi_score", "f1", "auc")


def scored(folder: Path, system: str, seed: int, steps: int) -> dict[str, float]:
    """The scores of a run on what it has never seen; trains it where that is not done."""
    network, options, objective = SYSTEMS[system]
    data = Path(os.environ["CLEFT_DATA"], "vnc", "vnc_train.hdf").resolve()
    text = CONFIG.format(
        seed=seed,
        train=REGION.format(data, "0:20,0:512,0:1024"),
        validate=REGION.format(data, "0:20,640:752,0:448"),
        test=REGION.format(data, "0:20,640:752,576:1024"),
        network=network,
        options=options,
        objective=objective,
        scale="scale = 5.0" if objective == LA else "",
        steps=steps,
    )
    # a run of another version or config is another run
    digest = hashlib.sha256(f"{__version__}{text}".encode()).hexdigest()[:8]
    run = folder / f"{system.replace(' ', '_')}-{steps}-{seed}-{digest}"
    result = run / "result.json"
    if not result.exists():
        config = run.with_suffix(".toml")
        config.write_text(text)
        resume = (run / "state.safetensors").exists()
        found = train(config, run, resume=resume, device="auto", report=lambda *_: None)
        result.write_text(json.dumps(found["test"]["mean"], indent=1))
    return json.loads(result.read_text())


def main() -> None:
    """Train seed by seed, then print the table as Markdown: a part of the seeds is a table too."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    steps, seeds = (int(n) for n in (*sys.argv[2:4], "300", "3")[:2])
    every = range(1, seeds + 1)
    found = {(n, s): scored(folder, s, n, steps) for n in every for s in SYSTEMS}
    print(f"| system, {steps} steps, {seeds} seeds | {' | '.join(SHOWN)} |")  # noqa: T201
    print("|---" * (len(SHOWN) + 1) + "|")  # noqa: T201
    for system in SYSTEMS:
        rows = [found[seed, system] for seed in every]
        cells = [_spread([row[name] for row in rows]) for name in SHOWN]
        print(f"| {system} | {' | '.join(cells)} |", flush=True)  # noqa: T201


def _spread(values: list[float | None]) -> str:
    """Mean, and least to most; how many runs have no value."""
    known = [v for v in values if v is not None]
    if not known:
        return "none"
    digits = 1 if max(known) > 1 else 3
    text = f"{statistics.mean(known):.{digits}f} ({min(known):.{digits}f}..{max(known):.{digits}f})"
    return text + (f", {len(values) - len(known)} without" if len(known) < len(values) else "")


if __name__ == "__main__":
    main()
