// A client of im for web pages, in plain JavaScript: accounts and calls over gRPC-Web, the live
// connection over WebSocket. It does what every client must: it keeps a cursor, syncs what it missed,
// acknowledges, and sends again under the same client_message_id what was not answered. It knows the
// user's own timeline; large groups have timelines of their own, as ../python/chat.py shows.
//
//   const client = new Client("http://127.0.0.1:8081", state, save);
//   await client.signIn("+15550100", "000000");
//   const connection = client.connect({ message: (message) => console.log(words(message)) });
//   await client.send({ ...text("hello"), receiver_id: "2" });
//   const end = await connection.ended;   // then wait a moment, and connect again
//
// The server must have the page's origin among http.allowed_origins.

import { decode, encode } from "./protobuf.js";

const HEARTBEAT_MS = 60_000;
const CALL_MS = 15_000;

export const Code = { signInAgain: 10000, tooManyRequests: 10003, tryAgain: 10004 };
export const NoticeCode = { replaced: 1, signedOut: 2, draining: 3 };
export const ReceiverType = { user: 1, smallGroup: 2, largeGroup: 3, room: 4 };
export const MessageType = { text: 1 };
const SENDER_USER = 2;
const DEVICE_WEB = 5;
const PackageType = { signIn: 1, sync: 2, heartbeat: 3, message: 4, send: 6, notice: 7 };

// proto/conn.ext.proto

const Sender = {
  sender_type: [1, "int"],
  sender_id: [2, "id"],
  avatar_url: [3, "string"],
  nickname: [4, "string"],
};
const Message = {
  sender: [1, Sender],
  receiver_type: [2, "int"],
  receiver_id: [3, "id"],
  to_user_ids: [4, ["id"]],
  message_type: [5, "int"],
  message_content: [6, "bytes"],
  seq: [7, "int"],
  send_time: [8, "int"],
  message_id: [10, "id"],
  client_message_id: [11, "string"],
};
const Text = { text: [1, "string"] };
const Input = { type: [1, "int"], request_id: [2, "int"], data: [3, "bytes"] };
const Output = {
  type: [1, "int"],
  request_id: [2, "int"],
  code: [3, "int"],
  message: [4, "string"],
  data: [5, "bytes"],
};
const SignInInput = { device_id: [1, "id"], user_id: [2, "id"], token: [3, "string"] };
const SyncInput = { seq: [1, "int"], from_start: [3, "bool"], epoch: [4, "id"] };
const SyncOutput = {
  messages: [1, [Message]],
  has_more: [2, "bool"],
  epoch: [4, "id"],
  reset: [5, "bool"],
};
const MessageSend = { message: [1, Message] };
const MessageACK = { device_ack: [2, "int"] };
const Notice = { code: [1, "int"], message: [2, "string"], retry_after_ms: [3, "int"] };

// proto/logic.ext.proto and user.ext.proto

const SendMessageReq = {
  receiver_type: [1, "int"],
  receiver_id: [2, "id"],
  message_type: [4, "int"],
  message_content: [5, "bytes"],
  is_persist: [7, "bool"],
  client_message_id: [8, "string"],
};
const SendMessageResp = { seq: [1, "int"], message_id: [2, "id"], send_time: [3, "int"] };
const RPCS = {
  "LogicExt/RegisterDevice": [
    { type: [2, "int"], brand: [3, "string"], model: [4, "string"] },
    { device_id: [1, "id"] },
  ],
  "LogicExt/SendMessage": [SendMessageReq, SendMessageResp],
  "UserExt/SendCode": [{ phone_number: [1, "string"] }, {}],
  "UserExt/SignIn": [
    { phone_number: [1, "string"], code: [2, "string"], device_id: [3, "id"], password: [4, "string"] },
    { is_new: [1, "bool"], user_id: [2, "id"], token: [3, "string"] },
  ],
};

// google/rpc/status.proto and error_details.proto

const ErrorInfo = {
  reason: [1, "string"],
  domain: [2, "string"],
  metadata: [3, [{ key: [1, "string"], value: [2, "string"] }]],
};
const Status = { details: [3, [{ type_url: [1, "string"], value: [2, "bytes"] }]] };

/** The server's answer where it is an error. `code` is the contract's, or 0 where there is none. */
export class ImError extends Error {
  constructor(message, code, requestId = "") {
    super(message);
    this.code = code;
    this.requestId = requestId;
  }
}

const lost = () => new ImError("the connection ended", Code.tryAgain);

/** A text for a user, with an id of its own, so that sending it again does not send it twice. */
export function text(words) {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return {
    receiver_type: ReceiverType.user,
    message_type: MessageType.text,
    message_content: encode(Text, { text: words }),
    is_persist: true,
    client_message_id: Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join(""),
  };
}

/** What a text says; empty for other messages. */
export function words(message) {
  return message.message_type === MessageType.text ? decode(Text, message.message_content).text : "";
}

/** One device of one user. */
export class Client {
  /**
   * `state` is what it must remember, as JSON can hold it; `save(state)` is called when it changes.
   */
  constructor(server, state = {}, save = () => {}) {
    this.server = server;
    this.state = { device_id: "", user_id: "", token: "", seq: 0, epoch: "0", ...state };
    this.save = () => save(this.state);
    this.unanswered = new Map(); // client_message_id -> what to do when it is answered
    this.connection = null;
  }

  /** Makes a remote procedure call, such as "UserExt/SendCode". */
  async call(rpc, request) {
    const [requestFields, answerFields] = RPCS[rpc];
    const { user_id, device_id, token } = this.state;
    const answer = await fetch(`${this.server}/pb.${rpc}`, {
      method: "POST",
      headers: {
        "content-type": "application/grpc-web+proto",
        "x-grpc-web": "1",
        ...(token && { user_id, device_id, token }),
      },
      body: frame(encode(requestFields, request)),
      signal: AbortSignal.timeout(CALL_MS),
    });
    if (!answer.ok) throw new ImError(`HTTP ${answer.status}`, 0);
    const { message, trailers } = parts(new Uint8Array(await answer.arrayBuffer()));
    // An error that comes instead of an answer stands in the headers.
    const status = trailers ?? answer.headers;
    if (status.get("grpc-status") !== "0") throw callError(status, answer.headers.get("request_id"));
    return decode(answerFields, message);
  }

  /** Signs this device in, by a code that UserExt/SendCode sends; makes the account if need be. */
  async signIn(phone_number, code) {
    const { state } = this;
    if (!state.device_id) {
      const device = await this.call("LogicExt/RegisterDevice", { type: DEVICE_WEB, brand: "browser" });
      state.device_id = device.device_id;
      this.save();
    }
    const { device_id } = state;
    const { user_id, token } = await this.call("UserExt/SignIn", { phone_number, code, device_id });
    if (user_id !== state.user_id) Object.assign(state, { seq: 0, epoch: "0" });
    Object.assign(state, { user_id, token });
    this.save();
  }

  /**
   * Opens the connection: `on.message` is given every message of the user's timeline once, in order
   * of arrival. `byUrl` signs in before the first package, but puts the token into logs of proxies.
   */
  connect(on = {}, byUrl = false) {
    this.connection = new Connection(this, on, byUrl);
    return this.connection;
  }

  /** Sends over the connection, now or when there is one again; the promise holds over both. */
  send(message) {
    return new Promise((resolve, reject) => {
      this.unanswered.set(message.client_message_id, { message, resolve, reject });
      this.connection?.repeat(message.client_message_id);
    });
  }
}

/** A WebSocket that signs in, syncs, and goes on with what is pushed. */
class Connection {
  constructor(client, on, byUrl) {
    this.client = client;
    this.on = on;
    this.requests = new Map(); // request_id -> what to do with the answer
    this.nextRequest = 1;
    this.beyond = new Set(); // seqs that do not follow the cursor yet
    this.acknowledged = 0;
    this.isReady = false;
    this.isSyncing = false;
    this.notice = null;
    const { user_id, device_id, token } = client.state;
    const url = new URL(`${client.server.replace(/^http/, "ws")}/ws`);
    if (byUrl) url.search = new URLSearchParams({ user_id, device_id, token });
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => this.handle(decode(Output, new Uint8Array(data)));
    /** The end, whoever made it: the close code, and the server's Notice if there was one. */
    this.ended = new Promise((resolve) => {
      this.socket.onclose = ({ code }) => {
        clearInterval(this.heartbeat);
        for (const { reject } of this.requests.values()) reject(lost());
        resolve({ code, notice: this.notice });
      };
    });
    /** Signed in, and in step with the server. */
    this.ready = this.begin(byUrl);
    // Whoever does not wait for it learns of a failure by the end.
    this.ready.catch(() => this.socket.close());
  }

  async begin(isSignedIn) {
    await new Promise((resolve, reject) => {
      this.socket.onopen = resolve;
      this.ended.then(() => reject(new ImError("the connection could not be opened", 0)));
    });
    const beat = () => this.request(PackageType.heartbeat).catch(() => {});
    this.heartbeat = setInterval(beat, HEARTBEAT_MS);
    if (!isSignedIn) {
      const { user_id, device_id, token } = this.client.state;
      await this.request(PackageType.signIn, encode(SignInInput, { user_id, device_id, token }));
    }
    await this.sync();
    this.isReady = true;
    for (const id of this.client.unanswered.keys()) this.repeat(id);
  }

  close() {
    this.socket.close();
  }

  /** The data of the answer to a package. */
  request(type, data) {
    const request_id = this.nextRequest++;
    return new Promise((resolve, reject) => {
      if (this.socket.readyState !== WebSocket.OPEN) return reject(lost());
      this.requests.set(request_id, { resolve, reject });
      this.put(type, data, request_id);
    });
  }

  put(type, data, request_id = 0) {
    this.socket.send(encode(Input, { type, request_id, data }));
  }

  handle(output) {
    if (output.type === PackageType.notice) {
      this.notice = decode(Notice, output.data);
    } else if (output.type === PackageType.message && output.request_id === 0) {
      this.take(decode(MessageSend, output.data).message);
      this.settle();
    } else {
      const request = this.requests.get(output.request_id);
      this.requests.delete(output.request_id);
      if (output.code) request?.reject(new ImError(output.message, output.code));
      else request?.resolve(output.data);
    }
  }

  /** Sends what is not answered yet, for the first time or again. */
  async repeat(id) {
    const { message, resolve, reject } = this.client.unanswered.get(id);
    if (!this.isReady) return;
    try {
      const answer = await this.request(PackageType.send, encode(SendMessageReq, message));
      const sent = decode(SendMessageResp, answer);
      this.client.unanswered.delete(id);
      // The device that sent a message is not pushed it.
      const sender = { sender_type: SENDER_USER, sender_id: this.client.state.user_id };
      this.take({ ...message, ...sent, sender });
      this.settle();
      resolve(sent);
    } catch (error) {
      if ([Code.tooManyRequests, Code.tryAgain].includes(error.code)) {
        this.close(); // it stays unanswered, and is sent again on the next connection
        return;
      }
      this.client.unanswered.delete(id);
      this.settle();
      reject(error);
    }
  }

  /** Gets page after page of what this device has not got. */
  async sync() {
    this.isSyncing = true;
    const { state } = this.client;
    for (let hasMore = true; hasMore; ) {
      // A device that has nothing wants everything; 0 would mean "what nobody has acknowledged".
      const { seq, epoch } = state;
      const asked = encode(SyncInput, { seq, epoch, from_start: seq === 0 });
      const page = decode(SyncOutput, await this.request(PackageType.sync, asked));
      if (page.reset) {
        state.seq = 0;
        this.beyond.clear();
        this.acknowledged = 0;
        this.on.reset?.();
      }
      state.epoch = page.epoch;
      page.messages.forEach((message) => this.take(message));
      hasMore = page.has_more;
      this.settle();
    }
    this.isSyncing = false;
  }

  /** Hands a message on, unless it was before, and moves the cursor. */
  take(message) {
    const { state } = this.client;
    const isOwnTimeline = message.seq && message.receiver_type !== ReceiverType.largeGroup;
    if (isOwnTimeline) {
      if (message.seq <= state.seq || this.beyond.has(message.seq)) return;
      this.beyond.add(message.seq);
      while (this.beyond.delete(state.seq + 1)) state.seq += 1;
    }
    this.on.message?.(message);
  }

  /** Keeps and acknowledges the cursor; asks for what is missing before it can go on. */
  settle() {
    const { state } = this.client;
    if (state.seq > this.acknowledged) {
      this.acknowledged = state.seq;
      this.client.save();
      this.put(PackageType.message, encode(MessageACK, { device_ack: state.seq }));
    }
    // The answers to own sends explain a gap.
    if (this.beyond.size && !this.isSyncing && !this.client.unanswered.size) {
      this.sync().catch(() => this.close());
    }
  }
}

/** A message as it stands in a body of gRPC-Web: a flag, the length in 4 bytes, the message. */
function frame(message) {
  const bytes = new Uint8Array(5 + message.length);
  new DataView(bytes.buffer).setUint32(1, message.length);
  bytes.set(message, 5);
  return bytes;
}

/** The message in a body, and the trailers, which are a frame of their own with the flag 0x80. */
function parts(body) {
  const view = new DataView(body.buffer, body.byteOffset);
  const found = { message: new Uint8Array(), trailers: null };
  for (let at = 0; at < body.length; ) {
    const end = at + 5 + view.getUint32(at + 1);
    const content = body.subarray(at + 5, end);
    if (body[at] & 0x80) {
      const lines = new TextDecoder().decode(content).trim().split("\r\n");
      found.trailers = new Headers(lines.map((line) => line.split(/:(.*)/s, 2)));
    } else {
      found.message = content;
    }
    at = end;
  }
  return found;
}

function callError(status, requestId) {
  const words = decodeURIComponent(status.get("grpc-message") ?? "");
  const details = atob(status.get("grpc-status-details-bin") ?? "");
  const bytes = Uint8Array.from(details, (character) => character.charCodeAt(0));
  const isInfo = ({ type_url }) => type_url.endsWith("/google.rpc.ErrorInfo");
  const info = decode(Status, bytes).details.find(isInfo);
  const metadata = info ? decode(ErrorInfo, info.value).metadata : [];
  const code = metadata.find(({ key }) => key === "code")?.value ?? 0;
  return new ImError(words, Number(code), requestId);
}
