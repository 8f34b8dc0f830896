// openai_retries.mjs - the openai package retries by itself what a bad network swallowed: the
// tokens of a turn are in its session once all the same.
import assert from 'node:assert/strict';
import { createServer, request } from 'node:http';
import OpenAI from 'openai';

const model = 'eddy-tales';

// A gateway before the server whose `spoil` is asked about every POST: how its answer is lost.
//   'deaf'   the server does it all, and the client's connection breaks before the answer
//   'hasty'  the client's and the server's connections break while the server is at it
//   'gone'   the server does it all, and the client is told 502
async function gateway(root) {
  const { hostname, port } = new URL(root);
  const proxy = { tries: [], spoil: () => null };
  const server = createServer((from, to) => {
    const how = from.method === 'POST' ? proxy.spoil(proxy.tries.length) : null;
    if (from.method === 'POST') proxy.tries.push(from.headers['x-stainless-retry-count']);
    const { method, url: path, headers } = from;
    const there = request({ hostname, port, method, path, headers }, (answer) => {
      const parts = [];
      answer.on('data', (part) => parts.push(part));
      answer.on('end', () => {
        if (how === 'deaf') from.socket.destroy();
        else if (how === 'gone') to.writeHead(502).end();
        else to.writeHead(answer.statusCode, answer.headers).end(Buffer.concat(parts));
      });
      answer.on('error', () => from.socket.destroy());
    });
    there.on('error', () => from.socket.destroy());
    from.pipe(there);
    if (how === 'hasty')
      setTimeout(() => {
        there.destroy();
        from.socket.destroy();
      }, 30);
  });
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  proxy.baseURL = `http://127.0.0.1:${server.address().port}/v1`;
  proxy.close = () => {
    server.close();
    server.closeAllConnections();
  };
  return proxy;
}

export default async function checks(check, { demo }) {
  const proxy = await gateway(demo.root);
  const straight = new OpenAI({ baseURL: demo.baseURL, apiKey: 'none' });
  const plain = new OpenAI({ baseURL: proxy.baseURL, apiKey: 'none', maxRetries: 5 });
  const keyed = new OpenAI({ baseURL: proxy.baseURL, apiKey: 'none', maxRetries: 5 });
  keyed.idempotencyHeader = 'Idempotency-Key';

  const session = async () => (await straight.post('/sessions', { body: {} })).id;
  const stands = (id) => straight.get(`/sessions/${id}`);
  const spoiled = (how, times) => {
    proxy.tries = [];
    proxy.spoil = (n) => (n < times ? how : null);
  };
  const turn = (client, session_id, more) =>
    client.completions.create({
      model, session_id, prompt: 'Once upon a time', max_tokens: 60, ignore_eos: true, ...more,
    });

  for (const [name, client] of [['without a key', plain], ['with its key', keyed]]) {
    for (const how of ['deaf', 'hasty', 'gone']) {
      await check(`${name}: a turn whose answer is lost (${how}) is applied once`, async () => {
        const id = await session();
        spoiled(how, 2);
        const max_tokens = how === 'hasty' ? 1000 : 60; // more than 30 ms of work
        const c = await turn(client, id, { max_tokens });
        assert.deepEqual(proxy.tries, ['0', '1', '2']);
        const { version, position } = await stands(id);
        assert.equal(version, 1);
        assert.equal(c.session.version, 1);
        assert.equal(c.session.position, position);
        assert.equal(position, c.usage.prompt_tokens + max_tokens);
      });
    }

    await check(`${name}: a turn that goes through is no repeat of the one before`, async () => {
      const id = await session();
      spoiled(null, 0);
      const first = await turn(client, id);
      const second = await turn(client, id);
      assert.equal(second.session.version, 2);
      assert.notEqual(second.id, first.id);
    });

    await check(`${name}: a stream whose answer is lost is applied once`, async () => {
      const id = await session();
      spoiled('deaf', 1);
      let text = '';
      for await (const chunk of await turn(client, id, { stream: true }))
        text += chunk.choices[0]?.text ?? '';
      assert.equal(proxy.tries.length, 2);
      assert.ok(text.length > 0);
      assert.equal((await stands(id)).version, 1);
    });

    await check(`${name}: appends, forks and snapshots are made once`, async () => {
      const id = await session();
      const post = (path, body) => client.post(`/sessions/${id}${path}`, { body });
      spoiled('deaf', 1);
      await post('/append', { text: 'Once upon' });
      spoiled('gone', 1);
      await post('/snapshots', { label: 'here' });
      spoiled('deaf', 1);
      const { data } = await post('/fork', { n: 2 });
      assert.equal(data.length, 2);
      assert.equal((await stands(id)).version, 1);
      assert.equal((await straight.get(`/sessions/${id}/snapshots`)).data.length, 1);
    });
  }

  await check('expected_version alone lets no try through twice', async () => {
    const id = await session();
    spoiled('deaf', 1);
    const c = await turn(plain, id, { expected_version: 0 });
    assert.equal(c.session.version, 1);
    await assert.rejects(turn(straight, id, { expected_version: 0 }), { code: 'version_mismatch' });
    assert.equal((await stands(id)).version, 1);
  });

  proxy.close();
}
