// A client of chat-gateway, for browsers and Node 20 or newer. It needs nothing else.
//
//   const chat = new Chat("https://gateway.example/api/account/123/chat/ID", () => token);
//   for await (const message of chat.follow()) console.log(message.kind, message.data);
//   await chat.say("Hello");

/** A stream says something every few seconds, even if there is no news. Who is silent for longer is gone. */
const SILENCE_MS = 15_000;
/** What is worth trying again: the gateway or the chat service has too much to do, or is not there for now. */
const TRY_AGAIN = new Set([429, 502, 503, 504]);

/** Why the gateway refused, or what failed (RFC 9457). */
export interface Problem {
  type?: string;
  title?: string;
  status?: number;
  detail?: string;
  request_id?: string;
}

/** The fields of an info that most clients use; there are more, and a client may not get to see all. */
export interface Info {
  state?: "waiting" | "chatting" | "ended";
  agentName?: string;
  agentTyping?: string;
  [field: string]: unknown;
}

/** One server-sent event. `problem`: the chat service fails, and the stream goes on. `closed`: it does not. */
export type Message =
  | { kind: "info" | "event"; data: unknown }
  | { kind: "problem" | "closed"; data: Problem }
  | { kind: "ended"; data: { reason: "ended" | "gone" } };

/** The gateway or the chat service says no. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly problem: Problem,
    readonly retryAfterMs?: number,
  ) {
    super(`${status}: ${problem.detail ?? "no reason given"}`);
  }
}

/** Where a stream is: what was had last, and how long to wait before coming back. */
interface Position {
  lastId: string;
  retryMs: number;
  mayReturn: boolean;
}

/** One chat, by its address. `token` is asked for each request, so that it can be a new one. */
export class Chat {
  constructor(
    private readonly url: string,
    private readonly token: () => string | Promise<string>,
  ) {}

  /** The chat's info, and again whenever it has changed, until the chat has ended or is gone. */
  async *poll(everyMs = 1000, signal?: AbortSignal): AsyncGenerator<Info> {
    let etag = "";
    let failures = 0;
    while (!signal?.aborted) {
      let pauseMs = everyMs;
      try {
        const response = await this.ask("/info", { headers: etag ? { "If-None-Match": etag } : {} }, signal);
        failures = 0;
        if (response.status === 200) {
          etag = response.headers.get("etag") ?? "";
          const { info } = (await response.json()) as { info: Info };
          yield info;
          if (info.state === "ended") return;
        }
      } catch (error) {
        if (error instanceof Refused && error.status === 404) return;
        pauseMs = Math.max(everyMs, pauseAfter(error, ++failures, signal));
      }
      await sleep(pauseMs, signal);
    }
  }

  /** What a stream tells, over as many connections as it takes, until the chat has ended. */
  async *follow(what: "events" | "info" = "events", signal?: AbortSignal): AsyncGenerator<Message> {
    const at: Position = { lastId: "", retryMs: 1000, mayReturn: false };
    let failures = 0;
    while (!signal?.aborted) {
      let pauseMs = 0;
      // Aborted as soon as nobody wants more, or nothing comes.
      const connection = new AbortController();
      const leave = () => connection.abort();
      signal?.addEventListener("abort", leave);
      try {
        const headers: Record<string, string> = { Accept: "text/event-stream" };
        if (at.lastId) headers["Last-Event-ID"] = at.lastId;
        const response = await this.ask(`/${what}`, { headers }, connection.signal);
        if (response.status === 204 || response.body === null) return;
        for await (const message of messages(response.body, at, leave)) {
          failures = 0;
          yield message;
          if (message.kind === "ended") return;
          if (message.kind === "closed" && !at.mayReturn) throw new Refused(200, message.data);
        }
      } catch (error) {
        if (error instanceof Refused && error.status === 200) throw error;
        pauseMs = pauseAfter(error, ++failures, signal);
      } finally {
        signal?.removeEventListener("abort", leave);
        leave();
      }
      await sleep(Math.max(pauseMs, at.retryMs * jitter()), signal);
    }
  }

  /** Add a line; returns its address. Not repeated by itself: it may have been said. */
  async say(text: string): Promise<string> {
    const response = await this.ask("/events", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ event: { "@type": "line", text } }),
    });
    return response.headers.get("location") ?? "";
  }

  private async ask(
    path: string,
    init: { method?: string; body?: string; headers: Record<string, string> },
    signal?: AbortSignal,
  ): Promise<Response> {
    const headers = { Accept: "application/json", Authorization: `Bearer ${await this.token()}`, ...init.headers };
    const response = await fetch(this.url + path, { ...init, headers, signal, cache: "no-store" });
    if (response.ok || response.status === 304) return response;
    const problem = (await response.json().catch(() => ({}))) as Problem;
    const retryAfter = response.headers.get("retry-after");
    throw new Refused(response.status, problem, retryAfter === null ? undefined : Number(retryAfter) * 1000);
  }
}

/** The messages of one connection's stream (WHATWG HTML, 9.2). `leave` hangs up. */
async function* messages(
  body: ReadableStream<Uint8Array>,
  at: Position,
  leave: () => void,
): AsyncGenerator<Message> {
  let kind = "";
  let id = at.lastId;
  let data: string[] = [];
  at.mayReturn = false;
  for await (const line of linesOf(body, leave)) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") kind = value;
    else if (name === "data") data.push(value);
    else if (name === "id") id = value;
    else if (name === "retry" && /^\d+$/.test(value)) {
      at.retryMs = Number(value);
      at.mayReturn = true;
    } else if (line === "" && data.length > 0) {
      // Only now it is whole, and had.
      at.lastId = id;
      yield { kind, data: JSON.parse(data.join("\n")) } as Message;
      kind = "";
      data = [];
      at.mayReturn = false;
    }
  }
}

async function* linesOf(body: ReadableStream<Uint8Array>, leave: () => void): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  while (true) {
    const silence = setTimeout(leave, SILENCE_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
    rest = lines.pop() ?? "";
    for (const line of lines) yield line;
  }
}

/** How long to wait after what went wrong, in milliseconds; what would go wrong again is thrown. */
function pauseAfter(error: unknown, failures: number, signal?: AbortSignal): number {
  const isFinal = error instanceof Refused && !TRY_AGAIN.has(error.status);
  if (isFinal || signal?.aborted) throw error;
  if (error instanceof Refused && error.retryAfterMs !== undefined) return error.retryAfterMs;
  return Math.min(30_000, 500 * 2 ** failures) * jitter();
}

/** So that not all come back at once. */
function jitter(): number {
  return 0.5 + Math.random() / 2;
}

function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
