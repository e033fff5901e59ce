"""A chat over im: gRPC to get an account, a plain TCP socket to talk.

    python chat.py PHONE_NUMBER [USER_ID]

Lines typed are sent to USER_ID; what arrives is printed, from groups too. It behaves as every
client must: it keeps a cursor for each timeline on disk, syncs what it missed, acknowledges, and
sends again under the same client_message_id what was not answered. It needs a server with
sign_in.test_code = "000000", and Linux or macOS.
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
from push import ext_pb2 as push
from user import ext_pb2 as user
from user import ext_pb2_grpc as user_grpc

HEARTBEAT_S = 60
SIGN_IN_AGAIN, TOO_MANY_REQUESTS, TRY_AGAIN = 10000, 10003, 10004
OWN = 0  # names the user's own timeline; a large group's is named by the group's id


class Cursor:
    """The highest seq up to which everything of one timeline is held."""

    def __init__(self, seq=0):
        self.seq = seq
        self.beyond = set()  # seqs received that do not follow the cursor yet

    def is_new(self, seq):
        return seq > self.seq and seq not in self.beyond

    def hold(self, seq):
        self.beyond.add(seq)
        while self.seq + 1 in self.beyond:
            self.seq += 1
            self.beyond.remove(self.seq)

    def begin_at(self, seq):
        """A page begins here: what stands before it is held, or is not for this user."""
        self.seq = max(self.seq, seq - 1)
        self.beyond = {held for held in self.beyond if held > self.seq}


class Chat:
    def __init__(self, args):
        self.args = args
        self.file = pathlib.Path(f"chat-{args.phone_number}.json")
        # What a client must keep: who it is, and how far it has come.
        self.state = {"device_id": 0, "user_id": 0, "token": "", "seqs": {}, "epoch": 0}
        if self.file.exists():
            self.state.update(json.loads(self.file.read_text()))
        seqs = self.state["seqs"].items()
        self.cursors = {OWN: Cursor()} | {int(timeline): Cursor(seq) for timeline, seq in seqs}
        self.acknowledged = {}  # timeline -> the seq of the last ack
        self.asked = set()  # timelines of the last SyncInput
        self.leaving = set()  # groups that end when the last of their pushes has come
        self.unanswered = {}  # request_id -> SendMessageReq
        self.next_request = 1
        self.syncing = False
        self.closing = False
        self.socket = None

    def save(self):
        self.state["seqs"] = {timeline: cursor.seq for timeline, cursor in self.cursors.items()}
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
        for group in list(self.leaving):
            self.leave(group)
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
        self.asked = set(self.cursors)
        sync = conn.SyncInput(seq=self.cursors[OWN].seq, epoch=self.state["epoch"])
        for group in self.asked - {OWN}:
            sync.group_seqs[group] = self.cursors[group].seq
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

    # Messages, and how far this device has come with them.

    def take(self, message):
        is_of_group = message.receiver_type == conn.RT_LARGE_GROUP
        timeline = message.receiver_id if is_of_group else OWN
        cursor = self.cursors.get(timeline)
        # A group that is not known yet is synced once it is.
        if not cursor or (message.seq and not cursor.is_new(message.seq)):
            return
        where = "" if message.receiver_type == conn.RT_USER else f"to {message.receiver_id}, "
        print(f"[{message.seq}] {where}{describe(message)}", flush=True)
        if message.seq:
            cursor.hold(message.seq)
        if message.receiver_type in (conn.RT_USER, conn.RT_LARGE_GROUP):
            self.follow_news(message)

    def follow_news(self, message):
        """Begins and ends the cursors of large groups, as the server tells of them."""
        is_own = message.receiver_type == conn.RT_USER
        is_news = message.message_type == conn.MT_COMMAND
        if not is_news or message.sender.sender_type != conn.ST_SYSTEM:
            return
        command = conn.Command.FromString(message.message_content)
        me = self.state["user_id"]
        if command.code == push.PC_ADD_GROUP_MEMBERS and is_own:
            added = push.AddGroupMembersPush.FromString(command.data)
            if me in (member.user_id for member in added.members):
                self.cursors.setdefault(added.group_id, Cursor())
                self.leaving.discard(added.group_id)
        if command.code == push.PC_REMOVE_GROUP_MEMBER:
            removed = push.RemoveGroupMemberPush.FromString(command.data)
            if me != removed.deleted_user_id:
                return
            if is_own:
                # What stands before the removal may still be on its way.
                self.leaving.add(removed.group_id)
            elif removed.group_id in self.leaving:
                self.leave(removed.group_id)

    def leave(self, group):
        self.leaving.discard(group)
        self.cursors.pop(group, None)
        self.acknowledged.pop(group, None)
        self.asked.discard(group)

    def settle(self):
        """Stores and acknowledges cursors that moved; asks for what is missing."""
        moved = {
            timeline: cursor.seq
            for timeline, cursor in self.cursors.items()
            if cursor.seq > self.acknowledged.get(timeline, 0)
        }
        if moved:
            self.save()
        for timeline, seq in moved.items():
            self.acknowledged[timeline] = seq
            self.put(conn.PT_MESSAGE, conn.MessageACK(device_ack=seq, group_id=timeline))
        # The answers to own sends explain a jump on the own timeline.
        is_missing_some = any(
            cursor.beyond and not (timeline == OWN and self.unanswered)
            for timeline, cursor in self.cursors.items()
            if timeline not in self.leaving
        )
        has_new_groups = not self.cursors.keys() <= self.asked
        if (is_missing_some or has_new_groups) and not self.syncing:
            self.sync()

    # What the server sends.

    def handle(self, output):
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
                # The user's timeline tells of his groups once more.
                self.cursors = {OWN: Cursor()}
                self.acknowledged = {}
                self.leaving = set()
            self.state["epoch"] = page.epoch
            for message in page.messages:
                self.take(message)
            for part in page.groups:
                self.take_part(part)
            if page.has_more:
                self.sync()
            else:
                self.syncing = False
                self.save()
        elif output.type == conn.PT_MESSAGE:
            self.take(conn.MessageSend.FromString(output.data).message)
        if not self.closing:
            self.settle()

    def take_part(self, part):
        """The part of a page that belongs to one large group."""
        if part.group_id not in self.cursors:
            return
        if part.reset:
            self.cursors[part.group_id] = Cursor()
            self.acknowledged.pop(part.group_id, None)
        if part.messages:
            self.cursors[part.group_id].begin_at(part.messages[0].seq)
        for message in part.messages:
            self.take(message)

    def answered(self, output):
        if output.code in (TOO_MANY_REQUESTS, TRY_AGAIN):
            raise ConnectionError(output.message)  # it stays unanswered and is sent again
        request = self.unanswered.pop(output.request_id, None)
        if output.code:
            print(f"not sent: {output.message}", flush=True)
            return
        sent = logic.SendMessageResp.FromString(output.data)
        if request and self.cursors[OWN].is_new(sent.seq):
            text = conn.Text.FromString(request.message_content).text
            print(f"[{sent.seq}] me: {text}", flush=True)
            self.cursors[OWN].hold(sent.seq)

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


def describe(message):
    if message.sender.sender_type == conn.ST_USER:
        sender = f"user {message.sender.sender_id}"
    else:
        sender = conn.SenderType.Name(message.sender.sender_type)
    if message.message_type == conn.MT_TEXT:
        return f"{sender}: {conn.Text.FromString(message.message_content).text}"
    if message.message_type == conn.MT_COMMAND:
        return f"{sender}: command {conn.Command.FromString(message.message_content).code}"
    return f"{sender}: {conn.MessageType.Name(message.message_type)}"


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
