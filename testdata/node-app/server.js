// Tells how long a span is and what type a file has.
//   GET /ms?of=2%20days  -> {"ms":172800000}
//   GET /type?of=a.png   -> {"type":"image/png"}
//   GET /                -> {"service":"node-app","user":1000}
"use strict";

const http = require("node:http");
const mime = require("mime-types");
const ms = require("ms");

const routes = {
  "/": () => ({ service: "node-app", user: process.getuid() }),
  "/ms": (of) => ({ ms: ms(of) }),
  "/type": (of) => ({ type: mime.lookup(of) }),
};

const server = http.createServer((request, response) => {
  const url = new URL(request.url, "http://localhost");
  const route = routes[url.pathname];
  response.writeHead(route ? 200 : 404, { "Content-Type": "application/json" });
  response.end(JSON.stringify(route ? route(url.searchParams.get("of") ?? "") : { error: "not found" }));
});

server.listen(3000, "0.0.0.0");
process.on("SIGTERM", () => process.exit(0));
