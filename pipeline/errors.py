"""What can go wrong, as one small tree; the command line prints one line and the exit code.

AnomalysmithError            exit 1  (never raised itself)
├── UserError                exit 2  a mistake that the user can mend: manifest, paths, options
│   ├── ManifestError                the manifest, with line and key
│   ├── SourceError                  a dataset folder that is not in the stated layout
│   ├── WeightsError                 a weights file that is missing or not what it should be
│   ├── DeviceError                  the device that was asked for is not there, or is too small
│   └── RemoteError                  a server does not answer, or not as it should
├── ImageError               exit 3  one input image cannot be used; recorded, the run goes on
├── IntegrityError           exit 4  stored bytes are not what was written
└── RecordError              exit 1  a record that breaks its own promise: a bug of ours
"""


class AnomalysmithError(Exception):
    """Root of every error that this project raises on purpose.

    `passing` is said where it is raised: True when waiting some seconds may mend it.
    """

    exit_code = 1

    def __init__(self, *words: object, passing: bool = False) -> None:
        super().__init__(*words)
        self.passing = passing


class UserError(AnomalysmithError):
    """A mistake that the user can mend."""

    exit_code = 2


class ManifestError(UserError):
    """The manifest cannot be read; the message names file, line and key."""


class SourceError(UserError):
    """A dataset folder is not in the layout that was named."""


class WeightsError(UserError):
    """A weights file is missing, damaged, or forbidden by the licence policy."""


class DeviceError(UserError):
    """The device or provider that was asked for is not available, or its memory is too small."""


class RemoteError(UserError):
    """A server does not answer (`passing`), or not as it should (not, unless it says 5xx)."""


class ImageError(AnomalysmithError):
    """One input image cannot be used; it is recorded and the run goes on."""

    exit_code = 3


class IntegrityError(AnomalysmithError):
    """Stored bytes are not what was written."""

    exit_code = 4


class RecordError(AnomalysmithError):
    """A record was built with parts that do not fit together."""
