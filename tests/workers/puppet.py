"""A worker for tests that does as it is told, over the client in examples/python.

Speaks with the test as puppet.rs does, the same words for the same things. Beyond them:

    flood C COUNT TEXT      ok               publishes TEXT-0, TEXT-1, ... one call each
    many C COUNT TEXT       ok               the same, all at once
    bytes C COUNT           ok               publishes so many bytes
    missed                  ok COUNT
    by-hand                 ok               does not connect: what follows goes over the bare pipe
    say TEXT                ok               writes a line
    say-bytes HEX           ok               writes bytes
    repeat COUNT TEXT       ok               writes a line so often
    next                    ok LINE          reads a line; `end` at the end
    close write|all         ok               closes one direction or the pipe
"""

import os
import socket
import sys
import threading

sys.path.insert(0, os.environ["PYTHON_CLIENT"])
import herdwire  # noqa: E402


class Puppet:
    def __init__(self):
        self.test = socket.socket(socket.AF_UNIX)
        self.test.connect(os.environ["PUPPET_SOCKET"])
        self.lock = threading.Lock()
        self.herd = None
        self.pipe = None
        self.lines = None
        name, index = os.environ["HERDWIRE_NAME"], os.environ["HERDWIRE_INDEX"]
        self.tell(f"puppet {name} {index} {os.getpid()}")

    def tell(self, line):
        with self.lock:
            self.test.sendall(line.encode() + b"\n")

    def serve(self):
        for line in self.test.makefile("r", encoding="utf-8", newline="\n"):
            verb, _, rest = line.rstrip("\n").partition(" ")
            try:
                answer = getattr(self, "do_" + verb.replace("-", "_"))(rest)
                self.tell(f"ok {answer or ''}".rstrip())
            except Exception as error:  # whatever it is, the test wants to know
                self.tell(f"error {error}".replace("\n", " "))

    def do_connect(self, _):
        self.herd = herdwire.connect()
        threading.Thread(target=self.listen, daemon=True).start()
        me = self.herd.me
        return " ".join(str(me[key]) for key in ("herd", "app", "index", "instance", "slot", "incarnation"))

    def listen(self):
        for message in self.herd.receive():
            text = message.text if message.tag == "text" else message.value
            if message.tag == "bytes":
                text = message.data.decode("latin-1") if len(message.data) < 2000 else f"{len(message.data)} bytes"
            sender = "outside" if message.sender is None else message.sender
            if message.session:
                self.tell(f"heard-session {message.channel} {message.session} {text}")
            else:
                self.tell(f"heard{'-alone' if message.alone else ''} {message.channel} {sender} {text}")
        self.tell("shutdown")

    def do_ready(self, _):
        self.herd.ready()

    def do_subscribe(self, channel):
        self.herd.subscribe(channel)

    def do_publish(self, rest):
        channel, text = rest.split(" ", 1)
        self.herd.publish_text(channel, text)

    def do_json(self, rest):
        channel, text = rest.split(" ", 1)
        self.herd.publish(channel, text)

    def do_send(self, rest):
        instance, channel, text = rest.split(" ", 2)
        self.herd.publish_text(channel, text, to=int(instance))

    def do_session(self, rest):
        session, channel, text = rest.split(" ", 2)
        self.herd.publish_text(channel, text, session=session)

    def do_flood(self, rest):
        channel, count, text = rest.split(" ", 2)
        for number in range(int(count)):
            self.herd.publish_text(channel, f"{text}-{number}")

    def do_many(self, rest):
        channel, count, text = rest.split(" ", 2)
        self.herd.publish_many(channel, [f"{text}-{number}" for number in range(int(count))])

    def do_bytes(self, rest):
        channel, count = rest.split(" ")
        self.herd.publish(channel, b"x" * int(count))

    def do_peers(self, _):
        return " ".join(f"{peer['instance']}:{peer['state']}" for peer in self.herd.peers())

    def do_missed(self, _):
        return str(self.herd.missed)

    def do_by_hand(self, _):
        self.pipe = socket.socket(fileno=int(os.environ["HERDWIRE_PIPE_FD"]))
        self.lines = self.pipe.makefile("r", encoding="utf-8", newline="\n")

    def do_say(self, text):
        self.pipe.sendall(text.encode() + b"\n")

    def do_say_bytes(self, text):
        self.pipe.sendall(bytes.fromhex(text))

    def do_repeat(self, rest):
        count, text = rest.split(" ", 1)
        self.pipe.sendall((text.encode() + b"\n") * int(count))

    def do_next(self, _):
        return self.lines.readline().rstrip("\n") or "end"

    def do_close(self, rest):
        self.pipe.shutdown(socket.SHUT_WR if rest == "write" else socket.SHUT_RDWR)

    def do_exit(self, code):
        os._exit(int(code))


Puppet().serve()
os._exit(0)
