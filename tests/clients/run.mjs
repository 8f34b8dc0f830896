// run.mjs - public API clients against a live eddy: node run.mjs [PROGRAM], or ./dev clients.
//
// Each client's script exports one function that makes its checks on two servers: `demo` has
// the demonstration model, which no chat template fits, and `chat` a tiny model of random
// weights behind one. What a check needs, it makes: none depends on another.
import assert from 'node:assert/strict';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { makeTinyModel, serve } from './server.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const source = resolve(here, '../..');
const program = resolve(process.argv[2] ?? join(source, 'build/server/eddy'));
const clients = [
  'openai', 'openai_sessions', 'openai_errors', 'openai_retries', 'ai_sdk', 'langchain',
];
const CHECK_MS = 60_000;

let passed = 0;
let failed = 0;

async function check(name, body) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end after ${CHECK_MS / 1000} s`)), CHECK_MS);
  });
  try {
    await Promise.race([body(), late]);
    passed++;
    console.log(`ok      ${name}`);
  } catch (error) {
    failed++;
    console.log(`FAILED  ${name}\n${String(error.stack ?? error).replace(/^/gm, '        ')}`);
  } finally {
    clearTimeout(timer);
  }
}

const tiny = makeTinyModel(join(source, 'tests/data'));
const servers = {};
try {
  servers.demo = await serve(program, []);
  servers.chat = await serve(program, [
    tiny.folder, '--model-name', 'tiny', '--chat-template', 'chatml', '--log-json',
  ]);
  for (const client of clients) {
    const { default: checks } = await import(`./${client}.mjs`);
    await checks((name, body) => check(`${client}: ${name}`, body), servers);
  }
} finally {
  const ends = await Promise.all(Object.values(servers).map((server) => server.stop()));
  await check('the servers end with 0 on SIGTERM', () => {
    assert.deepEqual(ends.map((end) => end.code), [0, 0]);
  });
  await check('with --log-json all that is said is one JSON object a line', () => {
    const { stdout, stderr } = ends[1];
    const events = stderr.trim().split('\n').map((line) => JSON.parse(line).event);
    assert.equal(stdout, '');
    assert.equal(events[0], 'ready');
    assert.equal(events.at(-1), 'stopped');
  });
  tiny.remove();
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
