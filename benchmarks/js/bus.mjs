// The application of benchmarks/bus_app.py on Node.js' Socket.IO with its Redis adapter.
//
//   node bus.mjs PORT PATH-OF-REDIS-SOCKET DIRECTORY-WITH-node_modules
import { createServer } from "node:http";
import { createRequire } from "node:module";

const [port, path, directory] = process.argv.slice(2);
const require = createRequire(`${directory}/`);
const { createAdapter } = require("@socket.io/redis-adapter");
const { createClient } = require("redis");
const { Server } = require("socket.io");

// The adapter does not wait for what it publishes: when Redis dies, Node.js would end the process for that.
process.on("unhandledRejection", (error) => console.error(`unhandled: ${error.message}`));

const TEXT = "x".repeat(64);
const publisher = createClient({ socket: { path } });
const subscriber = publisher.duplicate();
for (const client of [publisher, subscriber]) {
  client.on("error", (error) => console.error(`redis: ${error.message}`));
  await client.connect();
}

const sleep = (ms) => new Promise((done) => (ms > 0 ? setTimeout(done, ms) : setImmediate(done)));

async function emit(count, batch, every, who) {
  let due = performance.now();
  for (let start = 0; start < count; start += batch) {
    for (let n = start; n < start + batch; n++) {
      io.to("room").emit("event", { n, at: Number(process.hrtime.bigint() / 1000n), text: TEXT, who });
    }
    due += every;
    await sleep(every ? due - performance.now() : 0);
  }
}

const http = createServer((request, response) => {
  const query = new URL(request.url, "http://host").searchParams;
  if (!request.url.startsWith("/emit")) return response.end("ok\n");
  emit(Number(query.get("count")), Number(query.get("batch")), Number(query.get("every_ms")), query.get("who") ?? "").then(() => response.end());
});
const io = new Server(http, { serveClient: false, adapter: createAdapter(publisher, subscriber) });
io.on("connection", (socket) => {
  socket.on("enter", (ack) => {
    socket.join("room");
    ack(true);
  });
});
http.listen(Number(port), "127.0.0.1");
