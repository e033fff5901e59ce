"""A business server that keeps the accounts: it implements UserInt (proto/user.int.proto).

    pip install grpcio grpcio-tools      # or: apt install python3-grpcio python3-grpc-tools
    python examples/business.py --listen 127.0.0.1:50100
And in im.toml: users.provider = "remote", users.endpoint = "http://127.0.0.1:50100". User 1 signs in
with the token "token-of-1". To see what happens when things go wrong: the token "slow" is answered
after a minute, the token "broken" and user 13 with an error. A line "2 Bobby" on stdin renames user 2;
whoever does that should call LogicInt.UserChanged, or it is seen when users.profile_cache_s are over.
"""

import argparse
import concurrent.futures
import pathlib
import sys
import tempfile
import time
import traceback
import grpc
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parent.parent / "proto"
# Of google/rpc: what travels in grpc-status-details-bin. With grpcio-status it need not be written.
RPC = """syntax = "proto3"; package rpc;
message Any { string type_url = 1; bytes value = 2; }
message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
message DebugInfo { repeated string stack_entries = 1; string detail = 2; }"""

stubs = tempfile.TemporaryDirectory()
pathlib.Path(stubs.name, "rpc.proto").write_text(RPC)
options = [f"-I{PROTO}", f"-I{stubs.name}", f"--python_out={stubs.name}"]
if protoc.main(["protoc", *options, "user.int.proto", "user.ext.proto", "rpc.proto"]) != 0:
    sys.exit("protoc failed")
sys.path.insert(0, stubs.name)
import rpc_pb2 as rpc
from user import ext_pb2, int_pb2

NAMES = {1: "Ada", 2: "Bob", 3: "Carol", 4: "Dan"}

def profile(user_id):
    if user_id == 13:
        raise RuntimeError("user 13 cannot be read")
    return ext_pb2.User(user_id=user_id, nickname=NAMES[user_id], extra=f"account {user_id}")


def traced(call):
    """Tells the caller where an unexpected error came from."""
    def answer(request, context):
        print(call.__name__, getattr(request, "user_id", ""), flush=True)
        try:
            return call(request, context)
        except RuntimeError as error:
            request_id = dict(context.invocation_metadata()).get("request_id", "unknown")
            print(f"request {request_id} failed: {error}", flush=True)
            frames = reversed(traceback.extract_tb(error.__traceback__))
            entries = [f"{frame.name} (business.py:{frame.lineno})" for frame in frames]
            info = rpc.DebugInfo(stack_entries=entries, detail=str(error)).SerializeToString()
            status = rpc.Status(code=grpc.StatusCode.INTERNAL.value[0], message="internal error")
            status.details.add(type_url="type.googleapis.com/google.rpc.DebugInfo", value=info)
            context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
        context.abort(grpc.StatusCode.INTERNAL, "internal error")
    return answer


def Auth(request, context):
    if request.token == "slow":
        time.sleep(60)
    if request.token == "broken":
        raise RuntimeError("tokens cannot be checked")
    if request.user_id not in NAMES or request.token != f"token-of-{request.user_id}":
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "sign in again")
    return int_pb2.AuthResp()


def GetUser(request, context):
    if request.user_id not in NAMES and request.user_id != 13:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such user")
    return ext_pb2.GetUserResp(user=profile(request.user_id))


def GetUsers(request, context):
    return int_pb2.GetUsersResp(users={id: profile(id) for id in request.user_ids if id in NAMES})


CALLS = {Auth: int_pb2.AuthReq, GetUser: ext_pb2.GetUserReq, GetUsers: int_pb2.GetUsersReq}
handlers = {call.__name__: grpc.unary_unary_rpc_method_handler(
    traced(call), request.FromString, lambda response: response.SerializeToString()) for call, request in CALLS.items()}
parser = argparse.ArgumentParser()
parser.add_argument("--listen", default="127.0.0.1:50100", help="host:port; port 0 takes a free one")
host, _, port = parser.parse_args().listen.rpartition(":")
server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=32))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("pb.UserInt", handlers)])
bound = server.add_insecure_port(f"{host}:{port}")
server.start()
print(f"listening on {host}:{bound}", flush=True)
for line in sys.stdin:
    user_id, name = line.strip().split(maxsplit=1)
    NAMES[int(user_id)] = name
    print("renamed", user_id, flush=True)
server.wait_for_termination()
