"""The exception hierarchy: every error that a user or a client can cause or meet.

Each class carries the gRPC status it maps to, so that one interceptor serves all. A message says what was got, what was
expected and what to do.
"""

from grpc import StatusCode


class TreerlError(Exception):
    """Root of the hierarchy; a bug in the system if raised bare."""

    status = StatusCode.INTERNAL


class InvalidRequestError(TreerlError):
    """The request or the input can never succeed as it stands."""

    status = StatusCode.INVALID_ARGUMENT


class NotFoundError(TreerlError):
    """The named thing is unknown, was released, or has expired."""

    status = StatusCode.NOT_FOUND


class PreconditionError(TreerlError):
    """The request is well formed but the service's state forbids it."""

    status = StatusCode.FAILED_PRECONDITION


class OverloadedError(TreerlError):
    """A bounded queue is full; the same request can succeed later."""

    status = StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """
        Args:
            message: what is full.
            retry_after_s: seconds after which there should be room; None if nobody can tell.
        """
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SlowReaderError(TreerlError):
    """A client stopped reading what was streamed to it."""

    status = StatusCode.DEADLINE_EXCEEDED


class UnavailableError(TreerlError):
    """Something this service needs cannot be reached at the moment."""

    status = StatusCode.UNAVAILABLE


class NotJoinedError(UnavailableError):
    """The group of a broadcast did not form: nothing was sent, and no weights were touched."""


class ConfigurationError(TreerlError):
    """A setting, a file or the machine does not fit; raised at start-up."""

    status = StatusCode.FAILED_PRECONDITION


class NotReadyError(TreerlError):
    """This worker cannot do it at present, but another one may, or this one later."""

    status = StatusCode.UNAVAILABLE


class CheckpointError(TreerlError):
    """Published weights are missing, incomplete, of the wrong shape or of the wrong checksum."""

    status = StatusCode.DATA_LOSS


class BroadcastError(CheckpointError):
    """Weights on their way by broadcast did not arrive whole; sent again, they may."""

    status = StatusCode.UNAVAILABLE


class CanaryError(CheckpointError):
    """The engine does not compute what the trainer computes with the same weights."""


class MismatchError(TreerlError):
    """Sampler and trainer disagree on the policy's log-probabilities."""

    status = StatusCode.FAILED_PRECONDITION
