// Opens one WebSocket over TLS: URL, the name to ask for, and the file of the authority that it trusts.  Prints one JSON
// line: the names of the certificate that it got, and the first message.
import { readFileSync } from "node:fs";
import WebSocket from "ws";

const [url, servername, authority] = process.argv.slice(2);
const socket = new WebSocket(url, { servername, ca: readFileSync(authority) });
let names;
socket.on("upgrade", (response) => {
  names = response.socket.getPeerCertificate().subjectaltname;
});
socket.on("message", (data) => {
  process.stdout.write(JSON.stringify({ names, first: data.toString() }) + "\n");
  socket.close();
});
socket.on("error", (error) => {
  process.stdout.write(JSON.stringify({ error: error.message }) + "\n");
});
