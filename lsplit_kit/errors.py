"""Every error the kit raises on purpose: one sentence each, and a page under docs/errors/ named after its code."""

from __future__ import annotations


class LsplitError(Exception):
    """Base of all errors raised on purpose; `code` names the page docs/errors/<code>.md and crosses the wire."""

    code = "error"
    request_id = ""  # names the host's log line when the error came over the wire

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        # A note shows below the message in a traceback, and is no part of the text that crosses the wire.
        self.add_note(f"What to do: {self.page}")

    @property
    def page(self) -> str:
        """Where the kit's documentation explains this error, relative to the repository."""
        return f"docs/errors/{self.code}.md"

    def __str__(self) -> str:
        return super().__str__() or (self.__doc__ or self.code)


class PlanError(LsplitError, ValueError):
    """The two cuts do not fit the model."""

    code = "plan"


class UnsupportedModel(LsplitError, ValueError):
    """This model cannot be cut in three, or was not cut yet; the sentence says which."""

    code = "unsupported-model"


class UnsupportedOption(LsplitError, ValueError):
    """An argument or option that cannot be honoured; the sentence says what was expected."""

    code = "unsupported-option"


class CodecError(LsplitError, ValueError):
    """The codec spec is unknown, or a payload does not fit its codec and shape."""

    code = "codec"


class CalibrationMissing(CodecError):
    """A codec needs a calibration that this side does not have."""

    code = "calibration"


class NonFiniteError(CodecError):
    """A tensor holds NaN or infinity."""

    code = "non-finite"


class FrameError(LsplitError, ValueError):
    """A frame or a call does not have the agreed form."""

    code = "frame"


class NeedsKnowledge(LsplitError, ValueError):
    """An attack was asked to use what its threat model does not grant, or to read before it was fitted."""

    code = "knowledge"


class LimitExceeded(LsplitError, ValueError):
    """A frame, a token count or a session count is over the agreed limit."""

    code = "limit"


class AuditFailed(LsplitError):
    """A host says that it holds more than a body; `audit` has the table."""

    code = "audit"

    def __init__(self, message: str = "", audit: object = None) -> None:
        super().__init__(message)
        self.audit = audit


class VersionMismatch(LsplitError):
    """The two sides speak different versions of the wire."""

    code = "version"


class FingerprintMismatch(LsplitError):
    """The two sides hold different weights, layers or number formats."""

    code = "fingerprint"


class CacheMiss(LsplitError):
    """The host has fewer positions than the step starts at; `have` says how many."""

    code = "cache-miss"

    def __init__(self, message: str = "", have: int = 0) -> None:
        super().__init__(message)
        self.have = have


class StepRefused(LsplitError):
    """A step number came twice with different contents, or out of order."""

    code = "step"


class SessionUnknown(LsplitError):
    """The host does not know this session on this connection."""

    code = "session"
    by_another = False  # whether another thread, which used the same link, ended that connection


class Busy(LsplitError):
    """The host's queue is full; `retry_after` says in how many seconds to ask again."""

    code = "busy"

    def __init__(self, message: str = "", retry_after: float = 1.0, position: int = 0) -> None:
        super().__init__(message)
        self.retry_after, self.position = retry_after, position


class HostUnavailable(LsplitError, ConnectionError):
    """No host answers at the address, or the connection broke."""

    code = "host-unavailable"
    absent = False  # whether nobody is at the address just now, so that a host that was may come back

    @classmethod
    def nobody(cls, text: str) -> HostUnavailable:
        """The error where nobody is at an address: in the middle of a reply a host is waited for."""
        error = cls(text)
        error.absent = True
        return error


class HostTimeout(HostUnavailable, TimeoutError):
    """The host did not answer within the deadline."""

    code = "host-timeout"
    elsewhere = False  # whether another host of the same body= may be asked


class HostError(LsplitError, RuntimeError):
    """The host failed inside; its own log has the request id and the details."""

    code = "host-error"


class AuthError(LsplitError, PermissionError):
    """A token or a certificate is missing or wrong, on one side or the other."""

    code = "auth"


class WeightsError(LsplitError, OSError):
    """Weights could not be fetched, verified or read."""

    code = "weights"


class CaptureError(LsplitError, ValueError):
    """A capture cannot be recorded, written or read."""

    code = "capture"


def by_code() -> dict[str, type[LsplitError]]:
    """Every error class by its code, for errors that arrive over the wire."""
    found: dict[str, type[LsplitError]] = {}
    queue: list[type[LsplitError]] = [LsplitError]
    for cls in queue:
        found[cls.code] = cls
        queue.extend(cls.__subclasses__())
    return found
