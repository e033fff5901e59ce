// Two users in one page: Alice uses the example's chat, in a frame; Bob its client. What they saw goes
// to /result.

import { Client, text, words } from "/im.js";

const { server, code, alice, bob } = Object.fromEntries(new URLSearchParams(location.search));

async function talk() {
  const client = new Client(server);
  const refusal = await client.signIn(bob, "999999").catch((error) => error);
  await client.signIn(bob, code);
  const chat = await aliceSignsIn();
  const seen = { refusal: { code: refusal.code, message: refusal.message, requestId: refusal.requestId } };
  seen.alice = /\d+/.exec(chat.getElementById("state").textContent)[0];
  seen.bob = client.state.user_id;

  // By the first message of the connection, then by its URL.
  for (const byUrl of [false, true]) {
    const received = inbox();
    const connection = client.connect({ message: received.put }, byUrl);
    await connection.ready;
    const name = byUrl ? "url" : "message";
    await client.send({ ...text(`socket, ${name}`), receiver_id: seen.alice });
    await received.until(`socket, ${name}`);
    await until(() => chat.body.textContent.includes(`${seen.bob}: socket, ${name}`));

    const call = { ...text(`call, ${name}`), receiver_id: seen.alice };
    const sent = await client.call("LogicExt/SendMessage", call);
    const again = await client.call("LogicExt/SendMessage", call);
    seen[`repeated ${name}`] = sent.message_id === again.message_id;
    await until(() => chat.body.textContent.includes(`${seen.bob}: call, ${name}`));

    fill(chat, "chat", { to: seen.bob, text: `answer, ${name}` });
    const answer = await received.until(`answer, ${name}`);
    seen[`answered ${name}`] = answer.sender.sender_id;
    connection.close();
    await connection.ended;
  }
  seen.chat = [...chat.querySelectorAll("#messages li")].map((item) => item.textContent);
  return seen;
}

async function aliceSignsIn() {
  const frame = document.createElement("iframe");
  frame.src = `/index.html?server=${encodeURIComponent(server)}`;
  document.body.append(frame);
  await new Promise((resolve) => (frame.onload = resolve));
  const chat = frame.contentDocument;
  fill(chat, "sign-in", { phone: alice, code });
  await until(() => chat.getElementById("state").textContent.startsWith("I am user"));
  return chat;
}

function fill(page, form, values) {
  const { elements } = page.getElementById(form);
  for (const [name, value] of Object.entries(values)) elements[name].value = value;
  page.querySelector(`#${form} button`).click();
}

/** Messages as they come. */
function inbox() {
  const messages = [];
  const find = (expected) => messages.find((message) => words(message) === expected);
  return {
    put: (message) => messages.push(message),
    until: (expected) => until(() => find(expected)),
  };
}

/** What `probe` finds once it finds something. Whoever waits for the result has the deadline. */
async function until(probe) {
  for (;;) {
    const found = probe();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const result = await talk().catch((error) => ({ error: `${error.stack ?? error}` }));
const headers = { "content-type": "application/json" };
await fetch("/result", { method: "POST", headers, body: JSON.stringify(result) });
