"""What can be wrong with a model's tokenizer."""

from worker.errors import Code, WorkerError


class TokenizerInvalidError(WorkerError):
    """The model directory has no readable tokenizer.json."""

    reason = "TOKENIZER_INVALID"
    code = Code.FAILED_PRECONDITION


class TokenizerUnsupportedError(WorkerError):
    """The tokenizer turns tokens into text in a way that cannot be followed token by token."""

    reason = "TOKENIZER_UNSUPPORTED"
    code = Code.FAILED_PRECONDITION
