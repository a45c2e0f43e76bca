// Loaded by Node before a client: ends it when it looks for a host beyond this machine. An exit
// cannot be taken for a fault of the network and be tried again.
"use strict";

const dns = require("node:dns");
const net = require("node:net");

const LOOKED_OUTSIDE = 86;
const also = new Set((process.env.OFFLINE_ALSO ?? "").split(",").filter(Boolean));

function check(host) {
  const here = host === "localhost" || host === "::1" || /^127\./.test(host) || also.has(host);
  if (!here) {
    process.stderr.write(`This program looked for ${host}.\n`);
    process.exit(LOOKED_OUTSIDE);
  }
}

function watch(module, name) {
  const original = module[name];
  module[name] = (host, ...rest) => {
    check(host);
    return original.call(module, host, ...rest);
  };
}

for (const module of [dns, dns.promises]) {
  for (const name of ["lookup", "resolve", "resolve4", "resolve6"]) {
    watch(module, name);
  }
}

const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...given) {
  // Node's own callers hand over a list whose first item is the options.
  const [first, second] = Array.isArray(given[0]) ? given[0] : given;
  const options = typeof first === "object" ? first : { host: second };
  if (!options.path) {
    check(typeof options.host === "string" ? options.host : "localhost");
  }
  return connect.apply(this, given);
};
