"""Errors a user can cause and mend; a command turns each into one line and exit code 2.

A message says the value, the rule it breaks and the remedy. Mistakes of the calling code are `ValueError` or an
`assert`, so that they surface as bugs.
"""

from __future__ import annotations


class UserError(Exception):
    """Bad usage, configuration or data: one clear line, exit code 2."""


class SettingsError(UserError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(UserError):
    """A data set, a label or a table does not hold what its reader needs."""


class SceneError(DataError):
    """A scene cannot be opened or read, or lacks a band or a layer."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or made for something else."""


class WeightsError(CheckpointError):
    """Foreign weights cannot be read safely or do not fit the model."""


class RunError(UserError):
    """A run folder belongs to other settings or other data, or is in use."""


class TrainingError(UserError):
    """Training cannot go on: a loss that is not finite, or no memory left on the device."""


class StorageError(UserError):
    """The disk is full, read-only or closed to the user."""


class DiskError(StorageError):
    """The place written to takes no more: full, over its quota, read-only, or the file is too large for it."""


class DeviceError(UserError):
    """The device asked for is not there."""
