// Says whether Node accepts a server with this chain for a name: verify.mjs ROOTS CHAIN KEY NAME → "ok", or the error.
import { readFileSync } from "node:fs";
import { connect, createServer } from "node:tls";

const [roots, chain, key, name] = process.argv.slice(2);
const server = createServer({ cert: readFileSync(chain), key: readFileSync(key) }, (socket) => socket.end());
server.on("tlsClientError", () => {});
server.listen(0, "127.0.0.1", () => {
  const isAddress = /^[0-9.]+$/.test(name);
  const options = { host: "127.0.0.1", port: server.address().port, ca: readFileSync(roots) };
  const socket = connect(isAddress ? options : { ...options, servername: name }, () => end("ok", 0));
  socket.on("error", (error) => end(`${error.code} ${error.message}`, 1));
  const end = (text, code) => {
    console.log(text);
    process.exit(code);
  };
});
