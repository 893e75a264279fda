"""Find synaptic clefts in volume electron microscopy."""

__version__ = "0.1.0"
