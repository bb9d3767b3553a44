// A container's life through gantry.engine.v1: engine.js SOCKET IMAGE PROTO
"use strict";

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [socket, image, proto] = process.argv.slice(2);
const names = ["containers", "events", "images"];
const files = names.map((name) => path.join("gantry/engine/v1", `${name}.proto`));
const definition = loader.loadSync(files, {
  includeDirs: [proto],
  keepCase: true,
  defaults: true,
  longs: String,
  enums: String,
  oneofs: true,
});
const api = grpc.loadPackageDefinition(definition).gantry.engine.v1;
const credentials = grpc.credentials.createInsecure();
const client = (service) => new service(`unix:${socket}`, credentials);
const containers = client(api.Containers);
const images = client(api.Images);
const events = client(api.Events);

// A call with one answer, as a promise.
const call = (method, request) =>
  new Promise((resolve, reject) => {
    containers[method](request, (error, answer) => (error ? reject(error) : resolve(answer)));
  });

async function pull(reference) {
  for await (const progress of images.Pull({ reference })) {
    if (progress.event === "done") return progress.done.name;
  }
  throw new Error("the pull ended without a word");
}

// Runs a container; tells when it is made, and at last its exit code and output.
async function run(spec, created) {
  const session = containers.Run();
  session.end({ run: { spec } });
  let output = "";
  for await (const answer of session) {
    if (answer.output === "created") created(answer.created.id);
    if (answer.output === "stdout") output += answer.stdout.toString();
    if (answer.output === "exited") return [answer.exited.status, output];
  }
  throw new Error("the session ended without an exit code");
}

async function execute(container, ...command) {
  const session = containers.Exec();
  session.end({ exec: { container, command } });
  let output = "";
  for await (const answer of session) {
    if (answer.output === "stdout") output += answer.stdout.toString();
    if (answer.output === "exited") return [answer.exited.status, output];
  }
  throw new Error("the session ended without an exit code");
}

async function main() {
  const { cursor } = await call("List", { all: true });
  console.log("pulled", await pull(image));
  const spec = { image, network: "none" };
  const hello = { ...spec, command: ["echo", "hello"], auto_remove: true };
  const [code, output] = await run(hello, () => {});
  console.log("run", code, output.trim());

  const made = await call("Create", {
    spec: { ...spec, name: "node", command: ["sh", "-c", "echo from node; exec sleep 600"] },
    idempotency_key: "node-1",
  });
  const container = made.id;
  await call("Start", { container });
  console.log("exec", ...(await execute(container, "echo", "inside")).map((s) => `${s}`.trim()));
  const logs = containers.Logs({ container, follow: true, tail: -1 });
  let stopped;
  for await (const entry of logs) {
    console.log("log", entry.data.toString().trim());
    stopped = call("Stop", { container, timeout: 0 });
  }
  await stopped;
  console.log("exit", (await call("Wait", { container })).status);
  await call("Remove", { container });

  const told = [];
  const actions = "^(created|started|died|removed)$";
  const filters = [`kind==container,id==${container},action~="${actions}"`];
  const stream = events.Subscribe({ cursor, filters });
  stream.on("error", () => {}); // of its cancellation
  for await (const event of stream) {
    told.push(event.action);
    if (event.action === "removed") break;
  }
  stream.cancel();
  console.log("events", ...told);
  const error = await call("Inspect", { container }).catch((error) => error);
  console.log("error", grpc.status[error.code]);
}

main()
  .catch((error) => {
    console.error(error);
    process.exitCode = 1;
  })
  .finally(() => [containers, images, events].forEach((client) => client.close()));
