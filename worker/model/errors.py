"""What can be wrong with a base model's directory."""

from worker.errors import Code, WorkerError


class ModelNotFound(WorkerError):
    """The directory, or a file that every model has, is not there."""

    reason = "MODEL_NOT_FOUND"
    code = Code.FAILED_PRECONDITION


class ModelConfigInvalid(WorkerError):
    """config.json or generation_config.json cannot be read, or says something impossible."""

    reason = "MODEL_CONFIG_INVALID"
    code = Code.FAILED_PRECONDITION


class ModelUnsupported(WorkerError):
    """A sound model that this worker cannot compute exactly; the message names what it lacks."""

    reason = "MODEL_UNSUPPORTED"
    code = Code.FAILED_PRECONDITION


class ModelWeightsInvalid(WorkerError):
    """The weights are damaged, or are not those that config.json describes; the message names the tensors."""

    reason = "MODEL_WEIGHTS_INVALID"
    code = Code.FAILED_PRECONDITION
