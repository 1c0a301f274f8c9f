// The server's interface: TF Serving's REST, and :explain. Addresses are relative, so that a proxy may add a path.

const KEY = "keras_resnext.key";
let askForKey = null; // set by the page: a function (was one given?) that promises a key

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function onKeyWanted(ask) {
  askForKey = ask;
}

export function listModels() {
  return request("v1/models").then(({ body }) => body.models);
}

// {outputs of one image, ms in the server, ms in all}
export async function predict(path, image) {
  const { body, server, trip } = await request(`${path}:predict`, {
    signature_name: "serving_bytes",
    instances: [{ b64: await toBase64(image) }],
  });
  return { outputs: body.predictions[0], server, trip };
}

export async function explain(path, image, { layer, method, classIndex }) {
  const document = { image_bytes: { b64: await toBase64(image) } };
  if (layer) document.layer = layer;
  if (method) document.method = method;
  if (classIndex !== null) document.class = classIndex;
  return (await request(`${path}:explain`, document)).body;
}

async function request(path, document) {
  for (;;) {
    const headers = {};
    const key = sessionStorage.getItem(KEY);
    if (key) headers["x-api-key"] = key;
    if (document) headers["content-type"] = "application/json";
    const started = performance.now();
    let response, text;
    try {
      response = await fetch(path, { method: document ? "POST" : "GET", headers, body: document && JSON.stringify(document) });
      text = await response.text();
    } catch {
      throw new ApiError("The server does not answer. Is it still running?", 0);
    }
    const trip = performance.now() - started;
    let body = {};
    try {
      body = JSON.parse(text);
    } catch {
      // An answer that is not the server's own: a proxy's, say.
    }
    if (response.ok) {
      const timing = /dur=([\d.]+)/.exec(response.headers.get("server-timing") ?? "");
      return { body, trip, server: timing ? Number(timing[1]) : null };
    }
    if (response.status !== 401 || !askForKey) {
      throw new ApiError(body.error ?? `HTTP ${response.status}`, response.status);
    }
    if (sessionStorage.getItem(KEY) === key) sessionStorage.setItem(KEY, await askForKey(Boolean(key)));
  }
}

function toBase64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new ApiError("The file cannot be read.", 0));
    reader.readAsDataURL(blob);
  });
}
