// As much of protobuf as im's messages need. A message's fields are written { name: [number, type] };
// a type is one of the words below, another message's fields, or [type] where it is repeated.
//
//   "id"                an int64 as a decimal string, for it may be more than a Number can be
//   "int"               an int32, enum, or int64 that counts something, as a Number
//   "bool" "string" "bytes"

const SCALARS = {
  id: { empty: "0", pack: (value) => BigInt(value), unpack: (bits) => String(BigInt.asIntN(64, bits)) },
  int: { empty: 0, pack: (value) => BigInt(value), unpack: (bits) => Number(BigInt.asIntN(64, bits)) },
  bool: { empty: false, pack: (value) => BigInt(value), unpack: (bits) => bits !== 0n },
};

const text = { encoder: new TextEncoder(), decoder: new TextDecoder() };

/** The bytes of a message. */
export function encode(fields, message) {
  const bytes = [];
  for (const [name, value] of Object.entries(message)) {
    if (!(name in fields)) throw new TypeError(`no field is called ${name}`);
    const [number, type] = fields[name];
    if (Array.isArray(type)) {
      for (const item of value) putField(bytes, number, type[0], item);
    } else if (value !== undefined) {
      putField(bytes, number, type, value);
    }
  }
  return Uint8Array.from(bytes);
}

function putField(bytes, number, type, value) {
  if (type in SCALARS) {
    putVarint(bytes, BigInt(number << 3));
    putVarint(bytes, BigInt.asUintN(64, SCALARS[type].pack(value)));
    return;
  }
  const content =
    type === "bytes" ? value : type === "string" ? text.encoder.encode(value) : encode(type, value);
  putVarint(bytes, BigInt((number << 3) | 2));
  putVarint(bytes, BigInt(content.length));
  for (const byte of content) bytes.push(byte);
}

function putVarint(bytes, value) {
  for (; value > 0x7fn; value >>= 7n) bytes.push(Number(value & 0x7fn) | 0x80);
  bytes.push(Number(value));
}

/** The message that `bytes` are, with every field; unknown ones are left out. */
export function decode(fields, bytes) {
  const message = {};
  const byNumber = {};
  for (const [name, [number, type]] of Object.entries(fields)) {
    message[name] = empty(type);
    byNumber[number] = [name, type];
  }
  const input = { bytes, at: 0 };
  while (input.at < bytes.length) {
    const tag = Number(takeVarint(input));
    const [name, type] = byNumber[tag >> 3] ?? [];
    const content = takeContent(input, tag & 7);
    if (!name) continue;
    if (Array.isArray(type)) message[name].push(...items(type[0], content));
    else message[name] = value(type, content);
  }
  return message;
}

function empty(type) {
  if (Array.isArray(type)) return [];
  if (type in SCALARS) return SCALARS[type].empty;
  return { string: "", bytes: new Uint8Array() }[type];
}

/** What follows a tag: a number, or bytes. */
function takeContent(input, wireType) {
  if (wireType === 0) return takeVarint(input);
  const length = { 1: 8, 5: 4 }[wireType] ?? Number(takeVarint(input));
  const end = input.at + length;
  if (end > input.bytes.length) throw new RangeError("a message is cut off");
  const content = input.bytes.subarray(input.at, end);
  input.at = end;
  return content;
}

function takeVarint(input) {
  let value = 0n;
  for (let shift = 0n; ; shift += 7n) {
    const byte = input.bytes[input.at++];
    if (byte === undefined) throw new RangeError("a message is cut off");
    value |= BigInt(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

function value(type, content) {
  if (type in SCALARS) return SCALARS[type].unpack(content);
  if (type === "bytes") return content;
  return type === "string" ? text.decoder.decode(content) : decode(type, content);
}

/** Repeated numbers come one by one, or all in one field. */
function items(type, content) {
  if (!(type in SCALARS) || typeof content === "bigint") return [value(type, content)];
  const found = [];
  const packed = { bytes: content, at: 0 };
  while (packed.at < content.length) found.push(value(type, takeVarint(packed)));
  return found;
}
