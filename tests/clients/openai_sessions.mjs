// openai_sessions.mjs - Eddy's sessions through the openai package: its methods with a
// session_id in the body, and its post, get and delete for the session verbs.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const model = 'eddy-tales';
const LONG = { max_tokens: 60_000, ignore_eos: true, stream: true };

export default async function checks(check, { demo, chat }) {
  const client = new OpenAI({ baseURL: demo.baseURL, apiKey: 'none' });
  const talker = new OpenAI({ baseURL: chat.baseURL, apiKey: 'none' });
  const post = (path, body) => client.post(path, { body });
  const turn = (session_id, prompt, more) =>
    client.completions.create({ model, session_id, prompt, max_tokens: 12, seed: 1, ...more });

  async function idle(id) {
    for (let i = 0; i < 200; i++) {
      const session = await client.get(`/sessions/${id}`);
      if (!session.busy) return session;
      await new Promise((done) => setTimeout(done, 10));
    }
    throw new Error(`session ${id} stays busy`);
  }

  await check('the second turn computes its own tokens only', async () => {
    const { id } = await post('/sessions', {});
    const first = await turn(id, 'Once upon a time');
    const second = await turn(id, ' The next day');
    assert.equal(first.session.version, 1);
    assert.equal(second.session.version, 2);
    assert.equal(second.usage.prompt_tokens_details.cached_tokens, first.session.position);
    assert.ok(second.usage.prompt_tokens - first.session.position <= 4);
  });

  await check('the X-Session-Id header stands in for session_id', async () => {
    const { id } = await post('/sessions', {});
    const c = await client.completions.create(
      { model, prompt: 'A', max_tokens: 2 },
      { headers: { 'X-Session-Id': id } },
    );
    assert.equal(c.session.id, id);
  });

  await check('a stream on a session ends with the session that it made', async () => {
    const { id } = await post('/sessions', {});
    let last;
    for await (const chunk of await turn(id, 'A tale', { stream: true }))
      if (chunk.choices.length) last = chunk;
    assert.equal(last.choices[0].finish_reason, 'length');
    assert.equal(last.session.version, 1);
    assert.equal(last.session.position, (await client.get(`/sessions/${id}`)).position);
  });

  await check('forks of a snapshot go on alike; restoring takes the session back', async () => {
    const { id } = await post('/sessions', {});
    await turn(id, 'Once upon a time');
    const snapshot = await post(`/sessions/${id}/snapshots`, { label: 'here' });
    const forks = (await post(`/sessions/${id}/fork`, { n: 2, snapshot: snapshot.id })).data;
    const next = await turn(id, ' Then', { seed: 7 });
    const back = await post(`/sessions/${id}/restore`, { snapshot: snapshot.id });
    assert.equal(back.position, snapshot.position);
    for (const session of [...forks, back]) {
      const again = await turn(session.id, ' Then', { seed: 7 });
      assert.equal(again.choices[0].text, next.choices[0].text);
    }
  });

  await check('a downloaded state goes on elsewhere as it would have here', async () => {
    const { id } = await post('/sessions', {});
    await turn(id, 'Once upon a time');
    const state = await client.get(`/sessions/${id}/state`, { __binaryResponse: true });
    const bytes = await state.arrayBuffer();
    const twin = `copy-of-${id}`;
    const there = `${demo.baseURL}/sessions/${twin}/state`;
    assert.equal((await fetch(there, { method: 'PUT', body: bytes })).status, 200);
    const [a, b] = await Promise.all([turn(id, ' Then'), turn(twin, ' Then')]);
    assert.equal(a.choices[0].text, b.choices[0].text);
  });

  await check('an aborted stream frees its session and leaves it where it was', async () => {
    const { id } = await post('/sessions', {});
    await turn(id, 'Once upon a time');
    const before = await idle(id);
    const stream = await turn(id, ' And then', LONG);
    for await (const _ of stream) break; // the package aborts the request
    const after = await idle(id);
    assert.equal(after.version, before.version);
    assert.equal(after.head, before.head);
    assert.equal((await turn(id, ' And then')).session.version, before.version + 1);
  });

  await check('an AbortController ends a turn without a session, too', async () => {
    const running = async () => {
      const page = await (await fetch(`${demo.root}/metrics`)).text();
      return Number(page.match(/^eddy_turns_running (\d+)/m)[1]);
    };
    const controller = new AbortController();
    const stream = await client.completions.create(
      { model, prompt: 'A', ...LONG },
      { signal: controller.signal },
    );
    for await (const _ of stream) controller.abort();
    for (let i = 0; (await running()) > 0; i++) {
      assert.ok(i < 200, 'the turn goes on without a reader');
      await new Promise((done) => setTimeout(done, 10));
    }
  });

  await check('a chat on a session takes the new messages only', async () => {
    const { id } = await talker.post('/sessions', { body: {} });
    const say = (content) =>
      talker.chat.completions.create({
        model: 'tiny', session_id: id, max_tokens: 8, seed: 1,
        messages: [{ role: 'user', content }],
      });
    const first = await say('hello');
    const second = await say('and?');
    assert.equal(second.session.version, 2);
    assert.equal(second.usage.prompt_tokens_details.cached_tokens, first.session.position);
  });

  await check('sessions and snapshots are listed page by page and deleted', async () => {
    const ids = [];
    for (let i = 0; i < 3; i++) ids.push((await post('/sessions', {})).id);
    const seen = [];
    for (let after = null, more = true; more; ) {
      const page = await client.get(`/sessions?limit=2${after ? `&after=${after}` : ''}`);
      seen.push(...page.data.map((s) => s.id));
      [after, more] = [page.last_id, page.has_more];
    }
    assert.equal(new Set(seen).size, seen.length);
    for (const id of ids) {
      assert.ok(seen.includes(id));
      assert.equal((await client.delete(`/sessions/${id}`)).deleted, true);
    }
    await assert.rejects(client.get(`/sessions/${ids[0]}`), OpenAI.NotFoundError);
  });
}
