"""A chat over im: gRPC to get an account, a plain TCP socket to talk.

    python chat.py PHONE_NUMBER [USER_ID]

Lines typed are sent to USER_ID; what arrives is printed. It behaves as every client must: it
keeps a cursor on disk, syncs what it missed, acknowledges, and sends again under the same
client_message_id what was not answered. It needs a server with sign_in.test_code = "000000",
and Linux or macOS.
"""

import argparse
import json
import os
import pathlib
import random
import select
import socket
import struct
import sys
import time
import uuid

import grpc
from conn import ext_pb2 as conn
from logic import ext_pb2 as logic
from logic import ext_pb2_grpc as logic_grpc
from user import ext_pb2 as user
from user import ext_pb2_grpc as user_grpc

HEARTBEAT_S = 60
SIGN_IN_AGAIN, TOO_MANY_REQUESTS, TRY_AGAIN = 10000, 10003, 10004


class Chat:
    def __init__(self, args):
        self.args = args
        self.file = pathlib.Path(f"chat-{args.phone_number}.json")
        # What a client must keep: who it is, and how far it has come.
        self.state = {"device_id": 0, "user_id": 0, "token": "", "seq": 0, "epoch": 0}
        if self.file.exists():
            self.state.update(json.loads(self.file.read_text()))
        self.beyond = set()  # seqs received that do not follow the cursor yet
        self.unanswered = {}  # request_id -> SendMessageReq
        self.next_request = 1
        self.syncing = False
        self.closing = False
        self.socket = None

    def save(self):
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.state))
        partial.replace(self.file)

    # An account and a token, over gRPC.

    def sign_in(self):
        with grpc.insecure_channel(self.args.grpc) as channel:
            if not self.state["device_id"]:
                device = logic.RegisterDeviceReq(type=3, brand="python")
                registered = logic_grpc.LogicExtStub(channel).RegisterDevice(device)
                self.state["device_id"] = registered.device_id
            signed_in = user_grpc.UserExtStub(channel).SignIn(
                user.SignInReq(
                    phone_number=self.args.phone_number,
                    code=self.args.code,
                    device_id=self.state["device_id"],
                )
            )
        self.state.update(user_id=signed_in.user_id, token=signed_in.token)
        self.save()

    # The long connection.

    def put(self, package, message=None, request_id=0):
        data = message.SerializeToString() if message else b""
        body = conn.Input(type=package, request_id=request_id, data=data).SerializeToString()
        self.socket.sendall(struct.pack(">H", len(body)) + body)

    def connect(self):
        host, port = self.args.tcp.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.syncing = False
        self.closing = False
        self.put(
            conn.PT_SIGN_IN,
            conn.SignInInput(
                device_id=self.state["device_id"],
                user_id=self.state["user_id"],
                token=self.state["token"],
            ),
        )

    def sync(self):
        self.syncing = True
        sync = conn.SyncInput(seq=self.state["seq"], epoch=self.state["epoch"])
        # A device that has nothing wants everything; 0 would mean "what nobody has acknowledged".
        sync.from_start = sync.seq == 0
        self.put(conn.PT_SYNC, sync)

    def send(self, text):
        request = logic.SendMessageReq(
            receiver_type=conn.RT_USER,
            receiver_id=self.args.to,
            message_type=conn.MT_TEXT,
            message_content=conn.Text(text=text).SerializeToString(),
            is_persist=True,
            client_message_id=str(uuid.uuid4()),
        )
        request_id, self.next_request = self.next_request, self.next_request + 1
        self.unanswered[request_id] = request
        self.put(conn.PT_SEND_MESSAGE, request, request_id)

    # The cursor: the highest seq up to which everything is held.

    def is_new(self, seq):
        return seq > self.state["seq"] and seq not in self.beyond

    def hold(self, seq):
        self.beyond.add(seq)
        while self.state["seq"] + 1 in self.beyond:
            self.state["seq"] += 1
            self.beyond.remove(self.state["seq"])

    def take(self, message):
        if message.seq and not self.is_new(message.seq):
            return
        text = conn.Text.FromString(message.message_content).text
        print(f"[{message.seq}] user {message.sender.sender_id}: {text}", flush=True)
        if message.seq:
            self.hold(message.seq)

    def settle(self, before):
        """Stores and acknowledges a cursor that moved; asks for what a jump left out."""
        if self.state["seq"] > before:
            self.save()
            self.put(conn.PT_MESSAGE, conn.MessageACK(device_ack=self.state["seq"]))
        if self.beyond and not self.unanswered and not self.syncing:
            self.sync()

    # What the server sends.

    def handle(self, output):
        before = self.state["seq"]
        if output.type == conn.PT_NOTICE:
            self.notice(conn.Notice.FromString(output.data))
        elif output.type == conn.PT_SEND_MESSAGE:
            self.answered(output)
        elif output.code == SIGN_IN_AGAIN:
            self.sign_in()
            self.closing = True
        elif output.code:
            raise ConnectionError(f"{output.code}: {output.message}")
        elif output.type == conn.PT_SIGN_IN:
            self.sync()
            for request_id, request in self.unanswered.items():
                self.put(conn.PT_SEND_MESSAGE, request, request_id)
        elif output.type == conn.PT_SYNC:
            page = conn.SyncOutput.FromString(output.data)
            if page.reset:
                print("the server was restored: starting over", flush=True)
                before = self.state["seq"] = 0
                self.beyond.clear()
            self.state["epoch"] = page.epoch
            for message in page.messages:
                self.take(message)
            if page.has_more:
                self.sync()
            else:
                self.syncing = False
                self.save()
        elif output.type == conn.PT_MESSAGE:
            self.take(conn.MessageSend.FromString(output.data).message)
        if not self.closing:
            self.settle(before)

    def answered(self, output):
        if output.code in (TOO_MANY_REQUESTS, TRY_AGAIN):
            raise ConnectionError(output.message)  # it stays unanswered and is sent again
        request = self.unanswered.pop(output.request_id, None)
        if output.code:
            print(f"not sent: {output.message}", flush=True)
            return
        sent = logic.SendMessageResp.FromString(output.data)
        if request and self.is_new(sent.seq):
            text = conn.Text.FromString(request.message_content).text
            print(f"[{sent.seq}] me: {text}", flush=True)
            self.hold(sent.seq)

    def notice(self, notice):
        self.closing = True
        if notice.code == conn.NC_REPLACED:
            sys.exit("this device is connected elsewhere")
        if notice.code == conn.NC_SIGNED_OUT:
            self.sign_in()
        if notice.code == conn.NC_DRAINING:
            time.sleep(notice.retry_after_ms / 1000)

    # The loop.

    def talk(self):
        self.connect()
        received = b""
        inputs = [self.socket] + ([sys.stdin] if self.args.to else [])
        while not self.closing:
            ready, _, _ = select.select(inputs, [], [], HEARTBEAT_S)
            if not ready:
                self.put(conn.PT_HEARTBEAT)
            if sys.stdin in ready:
                typed = os.read(sys.stdin.fileno(), 65536).decode()
                for line in filter(str.strip, typed.splitlines()):
                    self.send(line)
                if not typed:
                    inputs.remove(sys.stdin)
            if self.socket in ready:
                chunk = self.socket.recv(65536)
                if not chunk:
                    raise ConnectionError("the server closed the connection")
                received += chunk
            while len(received) >= 2 and not self.closing:
                (length,) = struct.unpack(">H", received[:2])
                if len(received) < 2 + length:
                    break
                body, received = received[2 : 2 + length], received[2 + length :]
                self.handle(conn.Output.FromString(body))

    def run(self):
        if not self.state["token"]:
            self.sign_in()
        print(f"I am user {self.state['user_id']}", flush=True)
        while True:
            try:
                self.talk()
            except (OSError, grpc.RpcError) as error:
                print(f"reconnecting: {error}", file=sys.stderr, flush=True)
                # Random, so that not all clients come back in the same moment.
                time.sleep(random.uniform(0.5, 3))
            finally:
                if self.socket:
                    self.socket.close()


def main():
    parser = argparse.ArgumentParser(description="Chats over im.")
    parser.add_argument("phone_number")
    parser.add_argument("to", type=int, nargs="?", help="the user id to send to")
    parser.add_argument("--code", default="000000", help="the verification code")
    parser.add_argument("--grpc", default=os.environ.get("IM_CHAT_GRPC", "127.0.0.1:50001"))
    parser.add_argument("--tcp", default=os.environ.get("IM_CHAT_TCP", "127.0.0.1:8080"))
    try:
        Chat(parser.parse_args()).run()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
