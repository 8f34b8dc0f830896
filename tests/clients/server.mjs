// server.mjs - an `eddy serve` of its own for the clients: any free port, stopped at the end.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const START_MS = 60_000;

// Where the server says that it listens: to people, or in its JSON log.
const READY = /ready on (http:\S+) |"event":"ready","url":"([^"]+)"/;

// Resolves once the server is ready, to { root, baseURL, stop }. stop() resolves to the exit
// code, and to what the server wrote on each stream.
export function serve(program, args) {
  const child = spawn(program, ['serve', '--port', '0', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const said = { stdout: '', stderr: '' };
  const ended = new Promise((done) => child.once('close', (code) => done({ code, ...said })));

  return new Promise((ready, fail) => {
    const timer = setTimeout(() => child.kill('SIGKILL'), START_MS);

    child.once('error', fail);
    ended.then(({ code, stderr }) => {
      clearTimeout(timer);
      fail(new Error(`${program} ended with ${code}: ${stderr}`));
    });
    for (const stream of ['stdout', 'stderr']) {
      child[stream].on('data', (bytes) => {
        const [, told, logged] = (said[stream] += bytes).match(READY) ?? [];
        const root = told ?? logged;
        if (!root) return;
        clearTimeout(timer);
        const stop = () => {
          child.kill('SIGTERM');
          return ended;
        };
        ready({ root, baseURL: `${root}/v1`, stop });
      });
    }
  });
}

// The characters that byte-level vocabularies write for the bytes 0 to 255: printable Latin-1
// stands for itself, the others are moved past it.
function byteCharacters() {
  const printable = (b) => (b >= 33 && b <= 126) || (b >= 161 && b !== 173);
  let moved = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(printable(b) ? b : moved++));
}

// A folder with the tests' smallest Mamba-2 and a tokenizer whose token ids are the bytes.
export function makeTinyModel(data) {
  const folder = mkdtempSync(join(tmpdir(), 'eddy-clients-'));
  const level = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  const vocab = Object.fromEntries(byteCharacters().map((c, id) => [c, id]));

  for (const file of ['config.json', 'generation_config.json', 'model.safetensors'])
    symlinkSync(resolve(data, 'mamba2-tiny', file), join(folder, file));
  writeFileSync(
    join(folder, 'tokenizer.json'),
    JSON.stringify({
      version: '1.0',
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: level,
      post_processor: null,
      decoder: level,
      model: { type: 'BPE', vocab, merges: [] },
    }),
  );
  return { folder, remove: () => rmSync(folder, { recursive: true }) };
}
