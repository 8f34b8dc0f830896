// openai_errors.mjs - refusals as the openai package shows them: class, code, param, and what
// it must not send again by itself: a turn is not idempotent.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const model = 'eddy-tales';

export default async function checks(check, { demo, chat }) {
  let sent = 0;
  const counting = (url, init) => {
    sent++;
    return fetch(url, init);
  };
  const shared = { apiKey: 'none', fetch: counting, maxRetries: 2 };
  const client = new OpenAI({ baseURL: demo.baseURL, ...shared });
  const talker = new OpenAI({ baseURL: chat.baseURL, ...shared });
  const complete = (more) =>
    client.completions.create({ model, prompt: 'A', max_tokens: 4, ...more });

  // The error that a call ends with, after one request and not more.
  async function refusal(call, type, fields) {
    sent = 0;
    const error = await call().then(
      () => assert.fail('the call was answered'),
      (e) => e,
    );
    assert.ok(error instanceof type, `${error.constructor.name}: ${error.message}`);
    for (const [name, value] of Object.entries(fields)) assert.equal(error[name], value, name);
    assert.ok(error.error.message.length > 0);
    assert.equal(sent, 1, 'requests sent');
    return error;
  }

  await check('an unknown model is a NotFoundError', async () => {
    const fields = { status: 404, code: 'model_not_found', type: 'invalid_request_error' };
    const unknown = { ...fields, param: 'model' };
    await refusal(() => complete({ model: 'gpt-9' }), OpenAI.NotFoundError, unknown);
    await refusal(() => client.models.retrieve('gpt-9'), OpenAI.NotFoundError, fields);
  });

  await check('a value out of bounds is a BadRequestError with its param', async () => {
    const bad = {
      temperature: 99, top_p: 2, n: 0, max_tokens: -1, logprobs: 21, presence_penalty: 3,
      seed: 1.5, stop: [''], logit_bias: { x: 1 }, best_of: 2, suffix: 'z', prompt: [],
    };
    for (const [param, value] of Object.entries(bad))
      await refusal(() => complete({ [param]: value }), OpenAI.BadRequestError, { param });
  });

  await check('a field that nobody knows is a BadRequestError that names it', async () => {
    const fields = { code: 'unknown_field', param: 'temprature' };
    await refusal(() => complete({ temprature: 1 }), OpenAI.BadRequestError, fields);
  });

  await check('tools are refused, not ignored', async () => {
    const tools = [{ type: 'function', function: { name: 'f', parameters: {} } }];
    const messages = [{ role: 'user', content: 'hi' }];
    await refusal(
      () => talker.chat.completions.create({ model: 'tiny', messages, tools }),
      OpenAI.BadRequestError,
      { param: 'tools' },
    );
  });

  await check('chat without a template is an UnprocessableEntityError', async () => {
    await refusal(
      () => client.chat.completions.create({ model, messages: [{ role: 'user', content: 'hi' }] }),
      OpenAI.UnprocessableEntityError,
      { code: 'no_chat_template' },
    );
  });

  await check('what a stream asks for wrongly is refused before it begins', async () => {
    await refusal(() => complete({ stream: true, n: 0 }), OpenAI.BadRequestError, { param: 'n' });
  });

  await check('a busy session is a ConflictError that is not retried', async () => {
    const { id } = await client.post('/sessions', { body: {} });
    const controller = new AbortController();
    const stream = await client.completions.create(
      { model, session_id: id, prompt: 'A', max_tokens: 60_000, ignore_eos: true, stream: true },
      { signal: controller.signal },
    );
    const reader = stream[Symbol.asyncIterator]();
    await reader.next();
    const error = await refusal(() => complete({ session_id: id }), OpenAI.ConflictError, {
      code: 'session_busy',
    });
    assert.equal(error.headers.get('x-should-retry'), 'false');
    controller.abort();
    await reader.next().catch(() => {});
  });

  await check('what fails in the middle of a stream is thrown to its reader', async () => {
    const { id } = await client.post('/sessions', { body: {} });
    const stream = await client.completions.create({
      model, session_id: id, prompt: 'A', max_tokens: 60_000, ignore_eos: true, stream: true,
    });
    const reader = stream[Symbol.asyncIterator]();
    await reader.next();
    await client.delete(`/sessions/${id}`);
    const rest = async () => {
      while (!(await reader.next()).done);
    };
    await assert.rejects(rest(), { code: 'session_not_found' });
  });

  await check('a version that has passed is a 412 that is not retried', async () => {
    const { id } = await client.post('/sessions', { body: {} });
    await complete({ session_id: id });
    const stale = { session_id: id, expected_version: 0 };
    const error = await refusal(() => complete(stale), OpenAI.APIError, {
      status: 412, code: 'version_mismatch', param: 'expected_version',
    });
    assert.equal(error.headers.get('x-should-retry'), 'false');
    assert.equal((await client.get(`/sessions/${id}`)).version, 1);
    assert.equal((await complete({ session_id: id, expected_version: 1 })).session.version, 2);
  });

  await check('a session that is there already is a ConflictError, not retried', async () => {
    const { id } = await client.post('/sessions', { body: {} });
    const again = () => client.post('/sessions', { body: { id } });
    await refusal(again, OpenAI.ConflictError, { code: 'session_exists' });
  });

  await check('an unknown session or path is a NotFoundError', async () => {
    await refusal(() => complete({ session_id: 'nobody' }), OpenAI.NotFoundError, {
      code: 'session_not_found',
    });
    await refusal(() => client.embeddings.create({ model, input: 'x' }), OpenAI.NotFoundError, {
      code: 'not_found',
    });
  });
}
