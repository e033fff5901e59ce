// The page's script: forms, and a client that is kept connected.

import { Client, Code, NoticeCode, text, words } from "./im.js";

const server =
  new URLSearchParams(location.search).get("server") ?? `http://${location.hostname}:8081`;
const [signIn, chat, list] = ["sign-in", "chat", "messages"].map((id) => document.getElementById(id));
let client;

signIn.onsubmit = async (event) => {
  event.preventDefault();
  const [phone, code] = [signIn.elements.phone.value, signIn.elements.code.value];
  // What a device must remember, one for each number.
  const key = `im ${server} ${phone}`;
  const state = JSON.parse(localStorage.getItem(key) ?? "{}");
  client = new Client(server, state, (state) => localStorage.setItem(key, JSON.stringify(state)));
  try {
    await client.signIn(phone, code);
  } catch (error) {
    say(`not signed in: ${error.message}`);
    return;
  }
  [signIn.hidden, chat.hidden] = [true, false];
  stayConnected();
};

chat.onsubmit = async (event) => {
  event.preventDefault();
  const { to, text: words } = chat.elements;
  const message = { ...text(words.value), receiver_id: to.value };
  words.value = "";
  try {
    await client.send(message);
  } catch (error) {
    say(`not sent: ${error.message}`);
  }
};

async function stayConnected() {
  for (;;) {
    const connection = client.connect({ message: show, reset: () => list.replaceChildren() });
    const refused = await connection.ready.then(
      () => say(`I am user ${client.state.user_id}`),
      (error) => error,
    );
    const { notice } = await connection.ended;
    if (notice?.code === NoticeCode.replaced) return say("this device is connected elsewhere");
    if (notice?.code === NoticeCode.signedOut || refused?.code === Code.signInAgain) {
      [signIn.hidden, chat.hidden] = [false, true];
      return say("signed out");
    }
    say("reconnecting");
    // Random, so that not all clients come back in the same moment.
    const pause = notice?.retry_after_ms || 500 + Math.random() * 2500;
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function show(message) {
  const item = document.createElement("li");
  item.textContent = `${message.sender.sender_id}: ${words(message)}`;
  list.append(item);
}

function say(what) {
  document.getElementById("state").textContent = what;
}
