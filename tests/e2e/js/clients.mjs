// A crowd of real JavaScript clients, driven by a Python test: one JSON command a line on standard input, one JSON
// report a line on standard output.  It ends when its standard input ends.
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const clients = new Map();

const report = (fields) => process.stdout.write(JSON.stringify(fields) + "\n");

function connect({ id, url, options }) {
  // forceNew: every client has its own connection, as if each were a browser of its own.
  const socket = io(url, { forceNew: true, reconnectionDelay: 100, reconnectionDelayMax: 500, ...options });
  clients.set(id, socket);
  socket.on("connect", () => {
    const { engine } = socket.io;
    report({ id, what: "connect", sid: socket.id, engineSid: engine.id, transport: engine.transport.name });
    engine.once("upgrade", (transport) => report({ id, what: "upgrade", transport: transport.name }));
  });
  socket.on("connect_error", (error) => report({ id, what: "connect_error", reason: error.message }));
  socket.on("disconnect", (reason, details) => {
    const { status, responseText } = details?.context ?? {};
    const why = [details?.message, status, responseText].filter(Boolean).join(": ");
    report({ id, what: "disconnect", reason: why ? `${reason} (${why})` : reason });
  });
  socket.onAny((event, ...data) => {
    // Whoever asks gets back what it said; an event that is called "silence" is not acknowledged.
    const acknowledge = typeof data.at(-1) === "function" ? data.pop() : undefined;
    report({ id, what: "event", event, data });
    if (event !== "silence") acknowledge?.(...data);
  });
}

async function emit({ id, request, event, data, timeoutMs }) {
  try {
    const answer = await clients.get(id).timeout(timeoutMs).emitWithAck(event, ...data);
    report({ id, what: "ack", request, answer });
  } catch (error) {
    report({ id, what: "ack", request, error: error.message });
  }
}

function stayAway({ id }) {
  clients.get(id).io.reconnection(false);
}

function close({ id }) {
  clients.get(id)?.disconnect();
  clients.delete(id);
}

const COMMANDS = { connect, emit, stayAway, close };

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...rest } = JSON.parse(line);
  COMMANDS[command](rest);
}
for (const socket of clients.values()) socket.disconnect();
