// TOKEN=... node main.js https://gateway.example/api/account/123/chat/ID poll | follow | say "Hello"

import { Chat } from "./chat-gateway";

declare const process: { argv: string[]; env: Record<string, string | undefined>; exitCode?: number };

async function main([url, verb, text]: string[]): Promise<void> {
  const chat = new Chat(url ?? "", () => process.env["TOKEN"] ?? "");
  if (verb === "poll") {
    for await (const info of chat.poll()) console.log(info.state, JSON.stringify(info));
  } else if (verb === "follow") {
    for await (const { kind, data } of chat.follow()) console.log(kind, JSON.stringify(data));
  } else if (verb === "say") {
    console.log(await chat.say(text ?? ""));
  } else {
    console.error("expected poll, follow or say");
    process.exitCode = 2;
  }
}

main(process.argv.slice(2)).catch((error: unknown) => {
  console.error(String(error));
  process.exitCode = 1;
});
