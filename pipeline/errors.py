"""The exceptions of this project, as one small tree with the exit code of the command line.

AnomalysmithError            exit 1  (never raised itself)
├── UserError                exit 2  a user error: manifest, paths, options
│   ├── ManifestError                the manifest, with line and key
│   ├── SourceError                  a dataset folder that is not in the stated layout
│   ├── WeightsError                 a weights file that is missing, damaged or forbidden
│   ├── DeviceError                  the requested device is absent or has too little memory
│   ├── RemoteError                  a server does not answer, or answers wrongly
│   └── WorkerLost                   a worker process was killed, as a rule for want of memory
├── ImageError               exit 3  one input image cannot be used; recorded, the run goes on
├── IntegrityError           exit 4  stored bytes are not what was written
└── RecordError              exit 1  a record whose fields contradict each other: a bug of ours
"""


class AnomalysmithError(Exception):
    """Root of every error that this project raises on purpose.

    Set `transient` where the error is raised: True when the same call may succeed some seconds
    later. Tasks are retried after such errors only.
    """

    # The command line prints the message on one line and exits with this code.
    exit_code = 1

    def __init__(self, *args: object, transient: bool = False) -> None:
        super().__init__(*args)
        self.transient = transient


class UserError(AnomalysmithError):
    """The user can fix it: a wrong option, path, manifest or file."""

    exit_code = 2


class ManifestError(UserError):
    """The manifest is not valid; the message names file, line and key."""


class SourceError(UserError):
    """A dataset folder is not in the stated layout."""


class WeightsError(UserError):
    """A weights file is missing, damaged, or forbidden by the licence policy."""


class DeviceError(UserError):
    """The requested device or provider is not available, or its memory is too small."""


class RemoteError(UserError):
    """A server does not answer (transient), or answers wrongly (transient only for status 5xx)."""


class WorkerLost(UserError):
    """A worker process was killed; what it and others had finished is kept."""


class ImageError(AnomalysmithError):
    """One input image cannot be used; it is recorded and the run goes on."""

    exit_code = 3


class IntegrityError(AnomalysmithError):
    """Stored bytes are not what was written."""

    exit_code = 4


class RecordError(AnomalysmithError):
    """A record was built from fields that contradict each other."""
