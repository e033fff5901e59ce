// A page that may not use the server tries it with a good credential. What it got goes to /result.

import { Client } from "/im.js";

const { server, user_id, device_id, token } = Object.fromEntries(new URLSearchParams(location.search));
const client = new Client(server, { user_id, device_id, token });

const outcome = (promise) => promise.then(() => "reached", (error) => error.name);
const opened = (connection) =>
  new Promise((resolve) => {
    connection.socket.addEventListener("open", () => resolve("reached"));
    connection.ended.then(({ code }) => resolve(`closed with ${code}`));
  });

const result = {
  call: await outcome(client.call("LogicExt/RegisterDevice", { type: 5 })),
  // What needs no leave to be sent, and is not read.
  simple: await outcome(fetch(`${server}/healthz`)),
  socket: await opened(client.connect()),
  socketByUrl: await opened(client.connect({}, true)),
};
const headers = { "content-type": "application/json" };
await fetch("/result", { method: "POST", headers, body: JSON.stringify(result) });
