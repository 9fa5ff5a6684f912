"""The names of what is in Redis: prefixes cannot run into each other, whatever the ids are."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys below one prefix; an id has its colons escaped, so that it is always the last part.

    All have two parts behind the prefix: with one, the index below `pulse:widget` would be the
    widget `widgets` below `pulse`.
    """

    prefix: str

    @property
    def widgets(self) -> str:
        """The index of all widgets."""
        return f"{self.prefix}:index:widgets"

    @property
    def roles(self) -> str:
        """What roles may do."""
        return f"{self.prefix}:index:roles"

    def widget(self, widget_id: str) -> str:
        """A widget."""
        return f"{self.prefix}:widget:{_part(widget_id)}"

    def connection(self, widget_id: str) -> str:
        """The connection of a widget's viewer."""
        return f"{self.prefix}:connection:{_part(widget_id)}"

    def worker(self, worker_id: str) -> str:
        """The index of a worker's connections."""
        return f"{self.prefix}:worker:{_part(worker_id)}"

    def session(self, session_id: str) -> str:
        """A user session."""
        return f"{self.prefix}:session:{_part(session_id)}"

    def user(self, user_id: str) -> str:
        """The index of a user's sessions."""
        return f"{self.prefix}:user:{_part(user_id)}"

    def stream(self, channel: str) -> str:
        """The events of a channel."""
        return f"{self.prefix}:events:{_part(channel)}"

    def bell(self, name: str) -> str:
        """What wakes a reader of events."""
        return f"{self.prefix}:bell:{_part(name)}"

    def every(self, kind: str) -> str:
        """A pattern of all keys of *kind*, `worker` or `user`."""
        literal = "".join(f"\\{letter}" if letter in "*?[]\\^-" else letter for letter in self.prefix)
        return f"{literal}:{kind}:*"


def _part(text: object) -> str:
    if not isinstance(text, str):
        # Nobody's id, such as the None of a cookie that was not sent: no text is written like this.
        return "%"
    return text.replace("%", "%25").replace(":", "%3A")
