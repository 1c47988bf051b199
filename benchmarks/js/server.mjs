// The application of benchmarks/sio/app.py on Node.js' own Socket.IO server, set up for speed as its documentation
// advises: bufferutil where it is installed, and no reference to the handshake's request.
//
//   NODE_ENV=production node server.mjs --port PORT [--name NAME] [--redis SOCKET]
//
// `--redis` joins the servers that share this Valkey (the path of its unix socket).  `--version` says what it runs on.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { parseArgs } from "node:util";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const require = createRequire(import.meta.url);

function version(name) {
  try {
    require(name);
    return require(`${name}/package.json`).version;
  } catch {
    return "absent";
  }
}

async function adapterOver(path) {
  const publisher = createClient({ socket: { path } });
  const subscriber = publisher.duplicate();
  for (const client of [publisher, subscriber]) {
    client.on("error", (error) => console.error(`redis: ${error.message}`));
    await client.connect();
  }
  return createAdapter(publisher, subscriber);
}

async function serve({ port, name, redis }) {
  const http = createServer((_, response) => response.end("ok\n"));
  const io = new Server(http, { serveClient: false, ...(redis && { adapter: await adapterOver(redis) }) });
  io.engine.on("connection", (connection) => {
    connection.request = null;
  });
  io.on("connection", (socket) => {
    socket.on("echo", (text, ack) => ack(text));
    socket.on("where", (ack) => ack(name));
    socket.on("say", ({ first, count, text }) => {
      for (let number = first; number < first + count; number++) {
        io.emit("message", { n: number, text });
      }
    });
  });
  // A listener's default backlog is 511: a crowd that comes at once would wait for the client's next SYN.
  http.listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 });
}

const { values } = parseArgs({
  options: {
    port: { type: "string", default: "0" },
    name: { type: "string", default: "node.js" },
    redis: { type: "string" },
    version: { type: "boolean" },
  },
});

if (values.version) {
  const packages = ["socket.io", "ws", "bufferutil", "@socket.io/redis-adapter", "redis"];
  console.log([`Node.js ${process.version}`, ...packages.map((name) => `${name} ${version(name)}`)].join(", "));
} else {
  await serve(values);
}
