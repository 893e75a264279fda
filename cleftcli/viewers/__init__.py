"""Volumes in the viewers that labs use; they ask for the voxels on the screen, none is read before.

`viewers.neuroglancer` serves them from this process, `viewers.napari` is for napari's.
"""

from cleftcli.viewers.layer import Layer, Voxels

__all__ = ["Layer", "Voxels"]
