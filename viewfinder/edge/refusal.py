"""The error of a request that the engine refuses."""


class Refusal(Exception):
    """A request is refused. `status` is the HTTP status with which a Qdrant server refuses it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


def missing_collection(name: str) -> Refusal:
    """Return the refusal of a request for a collection that does not exist."""
    return Refusal(404, f"Not found: Collection `{name}` doesn't exist!")
