"""What fails in a run although its input was right: one line each, with which a command ends with status 1 (see command.py)."""


class ServerError(RuntimeError):
    """A server did not start, or refused a call; says which, with what status, and where its log is."""


class Refused(ServerError):
    """A server answered with a status other than 200."""

    def __init__(self, text: str, status: int):
        super().__init__(text)
        self.status = status


class LostPeer(RuntimeError):
    """Another rank is gone: one line; its own error, if it had one, says why."""


class NotWritten(RuntimeError):
    """A checkpoint, an export or a log could not be written: one line."""


class Diverged(RuntimeError):
    """A model's gradients are not finite any more, on all ranks alike: one line."""
