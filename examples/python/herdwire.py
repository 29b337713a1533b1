"""A client of Herdwire for Python: one file, nothing but the standard library.

    import herdwire

    with herdwire.connect() as herd:
        herd.subscribe("orders")
        herd.ready()
        for message in herd.receive():
            herd.publish("done", {"order": message.value})

The app needs `transport = "pipe"`. Every method may be called from any thread and blocks until it is done; messages,
answers and signs of life are looked after by one thread of the client. docs/pipe-protocol.md says what it speaks.
"""

import base64
import collections
import json
import os
import socket
import threading

__all__ = ["connect", "Herd", "Message", "HerdwireError", "NotStartedByHerdwire", "Refused", "Closed"]

VARIABLE = "HERDWIRE_PIPE_FD"
PROTOCOL = 1

# Messages that may wait for `receive`. With more than that no further ones are asked for, with less than half they are.
WAITING = 1024
# How long an answer may take. A publish waits for its readers, 5 seconds unless `stall_timeout` says otherwise.
ANSWER_SECONDS = 60
BEAT_SECONDS = 1


class HerdwireError(Exception):
    """Something that this client cannot do."""


class NotStartedByHerdwire(HerdwireError):
    """There is no pipe in the environment."""


class Closed(HerdwireError):
    """The pipe is closed: nothing more is heard or said."""


class Refused(HerdwireError):
    """The supervisor did not do what was asked; `code` is the protocol's word for the reason ("full", "too_large")."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Message:
    """A message that was received."""

    __slots__ = ("channel", "sender", "session", "alone", "tag", "value", "text", "data", "number")

    def __init__(self, frame):
        self.channel = frame["channel"]
        #: The instance that published it; None for one from a browser or another host.
        self.sender = frame.get("from")
        #: The browser that it came from, as `send_to_session` takes it.
        self.session = frame.get("session")
        #: Whether it was sent to this instance and to no other.
        self.alone = frame.get("alone", False)
        #: Counts what the supervisor says; it never goes back.
        self.number = frame["n"]
        #: The JSON value, the text, the bytes: that which it is, the others None.
        self.value = self.text = self.data = None
        if "value" in frame:
            self.tag, self.value = "json", frame["value"]
        elif "text" in frame:
            self.tag, self.text = "text", frame["text"]
        else:
            self.tag, self.data = frame.get("tag", "bytes"), base64.b64decode(frame["base64"])

    def __repr__(self):
        content = {"json": self.value, "text": self.text}.get(self.tag, self.data)
        return f"Message({self.channel!r}, {content!r}, sender={self.sender})"


def connect():
    """Takes this process's place in its herd. Once per process."""
    number = os.environ.pop(VARIABLE, None)
    if number is None:
        raise NotStartedByHerdwire(f'{VARIABLE} is not set: start it with herdwire, with transport = "pipe"')
    pipe = socket.socket(fileno=int(number))
    # Not for the programs that this one starts.
    pipe.set_inheritable(False)
    return Herd(pipe)


class Herd:
    """A place in the herd."""

    def __init__(self, pipe):
        self._pipe = pipe
        self._state = threading.Condition()
        self._writing = threading.Lock()
        self._answers = {}
        self._messages = collections.deque()
        self._next_id = 0
        self._last_number = -1
        self._longest = 4096
        self._paused = False
        self._closed = None
        self._stopping = False
        self._on_shutdown = []
        #: Messages that were missed because they were not received in time.
        self.missed = 0
        self._on_lag = None
        threading.Thread(target=self._read, name="herdwire", daemon=True).start()
        threading.Thread(target=self._beat, name="herdwire-beat", daemon=True).start()
        #: Who this process is: herd, app, instance, index, slot, incarnation, max_message.
        self.me = self._ask(op="hello", protocol=PROTOCOL)
        self._longest = self.me["max_line"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # --- what there is to do ---

    def subscribe(self, channel):
        """Hears a channel. When this returns, every publisher of the herd knows."""
        self._ask(op="subscribe", channel=channel)

    def unsubscribe(self, channel):
        """Does not hear a channel any more."""
        self._ask(op="unsubscribe", channel=channel)

    def publish(self, channel, value, to=None, session=None):
        """Publishes to all subscribers, to one instance, or to one browser. Returns whether anybody hears it.

        bytes go as bytes, everything else as JSON. Waits while a reader's unread messages fill the ring; raises
        Refused "full" when that takes too long, "too_large" for what is larger than `me["max_message"]`.
        """
        return self._ask(**self._message(channel, value, to, session)).get("heard", True)

    def publish_text(self, channel, text, to=None, session=None):
        """As publish, as text instead of JSON."""
        frame = dict(op="publish", channel=channel, text=text, to=to, session=session)
        return self._ask(**frame).get("heard", True)

    def publish_many(self, channel, values):
        """As publish, one after the other, but waits for the answers only at the end. Returns how many."""
        identifiers = [self._begin(self._message(channel, value, None, None)) for value in values]
        for identifier in identifiers:
            self._await(identifier)
        return len(identifiers)

    def send_to_session(self, channel, session, value):
        """Sends to one browser, wherever its front is."""
        return self.publish(channel, value, session=session)

    def receive(self, timeout=None):
        """Yields messages until this instance is asked to finish, the pipe is closed, or none came for `timeout`."""
        while True:
            with self._state:
                ready = self._state.wait_for(lambda: self._messages or self._stopping or self._closed, timeout)
                if not ready or not self._messages:
                    return
                message = self._messages.popleft()
                resume = self._paused and len(self._messages) <= WAITING // 2
                if resume:
                    self._paused = False
            if resume:
                self._send({"op": "resume"})
            yield message

    def ready(self):
        """This instance is ready to serve."""
        self._ask(op="ready")

    def peers(self):
        """The other instances of the herd: a list of {"instance", "slot", "state"}."""
        return self._ask(op="peers")["peers"]

    def on_shutdown(self, callback):
        """Calls back, on the client's thread, when this instance is asked to finish."""
        with self._state:
            self._on_shutdown.append(callback)
            late = self._stopping
        if late:
            callback()

    def on_lag(self, callback):
        """Calls back, on the client's thread, with how many messages were missed, and the channel if it is known."""
        self._on_lag = callback

    def is_shutting_down(self):
        """Whether this instance is asked to finish."""
        return self._stopping

    def close(self):
        """Leaves the herd."""
        try:
            self._send({"op": "leave"})
        except Closed:
            pass
        self._end("it was closed here")
        try:
            self._pipe.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    # --- how it is done ---

    @staticmethod
    def _message(channel, value, to, session):
        frame = {"op": "publish", "channel": channel, "to": to, "session": session}
        if isinstance(value, (bytes, bytearray, memoryview)):
            frame["base64"] = base64.b64encode(value).decode()
        else:
            frame["value"] = value
        return frame

    def _ask(self, **frame):
        return self._await(self._begin(frame))

    def _begin(self, frame):
        """Says something; its answer will be at the returned id."""
        with self._state:
            self._next_id += 1
            identifier = self._next_id
            self._answers[identifier] = None
        try:
            self._send(dict(frame, id=identifier))
        except BaseException:
            with self._state:
                self._answers.pop(identifier, None)
            raise
        return identifier

    def _await(self, identifier):
        with self._state:
            answered = self._state.wait_for(lambda: self._answers[identifier] or self._closed, ANSWER_SECONDS)
            answer = self._answers.pop(identifier)
        if answer is None:
            raise Closed(self._closed) if answered else HerdwireError(f"no answer within {ANSWER_SECONDS} s")
        if answer["op"] == "error":
            raise Refused(answer["error"], answer["message"])
        return answer

    def _send(self, frame):
        line = json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        if self._closed:
            raise Closed(self._closed)
        if len(line) > self._longest:
            raise Refused("too_large", f"a frame of {len(line)} bytes is longer than {self._longest}")
        try:
            with self._writing:
                self._pipe.sendall(line)
        except OSError as error:
            self._end(str(error))
            raise Closed(self._closed) from error

    def _read(self):
        try:
            # Buffered by hand: a line may be long, and a part of one may be the last words of a supervisor.
            rest = bytearray()
            while chunk := self._pipe.recv(1 << 16):
                rest += chunk
                if b"\n" in chunk:
                    *lines, rest = rest.split(b"\n")
                    for line in lines:
                        self._hear(line)
            self._end("the supervisor has closed the pipe")
        except OSError as error:
            self._end(str(error))

    def _hear(self, line):
        try:
            frame = json.loads(line)
            number, op = frame["n"], frame["op"]
        except (ValueError, KeyError, TypeError):
            # Empty, or what a supervisor that died had written of a line: its successor says it again, whole.
            return
        if number <= self._last_number:
            return  # Said twice, for the same reason.
        self._last_number = number
        if op == "message":
            with self._state:
                self._messages.append(Message(frame))
                pause = len(self._messages) >= WAITING and not self._paused
                self._paused = self._paused or pause
                self._state.notify_all()
            if pause:
                # From a thread of its own: who reads must never wait for room to write.
                threading.Thread(target=self._pause, daemon=True).start()
        elif op == "lagged":
            self.missed += frame["lagged"]
            if self._on_lag:
                self._on_lag(frame["lagged"], frame.get("channel"))
        elif op == "shutdown":
            with self._state:
                self._stopping = True
                callbacks = list(self._on_shutdown)
                self._state.notify_all()
            for callback in callbacks:
                callback()
        elif op == "error" and frame.get("error") == "closed":
            self._end(frame["message"])
        elif frame.get("id") is not None:
            with self._state:
                if frame["id"] in self._answers:
                    self._answers[frame["id"]] = frame
                    self._state.notify_all()

    def _pause(self):
        try:
            self._send({"op": "pause"})
        except Closed:
            return
        with self._state:
            again = not self._paused
        if again:  # Resumed meanwhile: the last word counts.
            self._send({"op": "resume"})

    def _beat(self):
        stopped = threading.Event()
        while not self._closed:
            stopped.wait(BEAT_SECONDS)
            try:
                self._send({"op": "beat"})
            except Closed:
                return

    def _end(self, why):
        with self._state:
            self._closed = self._closed or why
            self._state.notify_all()
