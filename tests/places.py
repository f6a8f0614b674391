"""Arrays where a test computes: with ``--device``, on that device."""

import numpy as np

import lazyflow as lf
from lazyflow import device


def here(array):
    """``array`` on the default device, as gradients have to be that a test makes itself."""
    return device.to_device(np.asarray(array), lf.settings.current().device)


def is_array_here(value):
    """Whether it is an array of the default device's module."""
    return device.is_array(value) and device.device_of(value) == lf.settings.current().device
