// openai.mjs - what the openai package asks for: models, completions and chat completions.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const model = 'eddy-tales';
const prompt = 'Once upon a time';
const messages = [{ role: 'user', content: 'hi' }];

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const textOf = (chunks, index = 0) =>
  chunks
    .flatMap((chunk) => chunk.choices)
    .filter((choice) => choice.index === index)
    .map((choice) => choice.text ?? choice.delta.content ?? '')
    .join('');

export default async function checks(check, { demo, chat }) {
  const client = new OpenAI({ baseURL: demo.baseURL, apiKey: 'none' });
  const talker = new OpenAI({ baseURL: chat.baseURL, apiKey: 'none' });
  const complete = (more) => client.completions.create({ model, prompt, ...more });
  const talk = (more) => talker.chat.completions.create({ model: 'tiny', messages, ...more });

  await check('models.list and models.retrieve name the model', async () => {
    const models = await collect(client.models.list());
    assert.deepEqual(models.map((m) => m.id), [model]);
    assert.equal((await client.models.retrieve(model)).object, 'model');
  });

  await check('a completion is whole, and its usage adds up', async () => {
    const c = await complete({ max_tokens: 20, seed: 1 });
    assert.equal(c.object, 'text_completion');
    assert.equal(c.model, model);
    assert.match(c.id, /^cmpl_/);
    assert.ok(c.choices[0].text.length > 0);
    assert.equal(c.choices[0].finish_reason, 'length');
    assert.equal(c.usage.completion_tokens, 20);
    assert.equal(c.usage.total_tokens, c.usage.prompt_tokens + 20);
  });

  await check('without max_tokens a completion has 16 tokens', async () => {
    assert.equal((await complete({ seed: 1 })).usage.completion_tokens, 16);
  });

  await check('a seed fixes the text, two seeds differ, temperature 0 needs none', async () => {
    const [a, b, c, d, e] = await Promise.all(
      [{ seed: 5 }, { seed: 5 }, { seed: 6 }, { temperature: 0 }, { temperature: 0 }].map(
        async (more) => (await complete({ max_tokens: 24, ...more })).choices[0].text,
      ),
    );
    assert.equal(a, b);
    assert.notEqual(a, c);
    assert.equal(d, e);
  });

  await check('a stream says what the whole answer says', async () => {
    const options = { max_tokens: 40, seed: 9 };
    const whole = await complete(options);
    const chunks = await collect(await complete({ ...options, stream: true }));
    assert.equal(textOf(chunks), whole.choices[0].text);
    assert.equal(new Set(chunks.map((c) => c.id)).size, 1);
    assert.equal(chunks.at(-1).choices[0].finish_reason, 'length');
    assert.ok(chunks.every((c) => c.usage === undefined || c.usage === null));
  });

  await check('include_usage adds a last chunk without choices', async () => {
    const chunks = await collect(
      await complete({ max_tokens: 8, stream: true, stream_options: { include_usage: true } }),
    );
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.equal(chunks.at(-1).usage.completion_tokens, 8);
    assert.ok(chunks.slice(0, -1).every((c) => c.usage === null));
  });

  await check('n gives n choices, whole and streamed alike', async () => {
    const options = { max_tokens: 12, seed: 3, n: 3 };
    const whole = await complete(options);
    const chunks = await collect(await complete({ ...options, stream: true }));
    assert.deepEqual(whole.choices.map((c) => c.index), [0, 1, 2]);
    assert.equal(new Set(whole.choices.map((c) => c.text)).size, 3);
    for (const choice of whole.choices) assert.equal(textOf(chunks, choice.index), choice.text);
    assert.equal(whole.usage.completion_tokens, 36);
  });

  await check('several prompts give a choice each, in their order', async () => {
    const prompts = ['The dog', 'The cat'];
    const options = { max_tokens: 6, temperature: 0 };
    const both = await complete({ prompt: prompts, ...options });
    const each = await Promise.all(prompts.map((p) => complete({ prompt: p, ...options })));
    assert.deepEqual(
      both.choices.map((c) => c.text),
      each.map((c) => c.choices[0].text),
    );
  });

  await check('a prompt of token ids is the prompt of their text', async () => {
    const answer = await fetch(`${demo.root}/tokenize`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ text: prompt, add_special: true }),
    });
    const { tokens } = await answer.json();
    const options = { max_tokens: 10, temperature: 0 };
    const ids = await complete({ prompt: tokens, ...options });
    const text = await complete(options);
    assert.equal(ids.choices[0].text, text.choices[0].text);
    assert.equal(ids.usage.prompt_tokens, text.usage.prompt_tokens);
  });

  await check('echo puts the prompt first, whole and streamed', async () => {
    const options = { max_tokens: 5, seed: 2 };
    const plain = (await complete(options)).choices[0].text;
    const chunks = await collect(await complete({ ...options, echo: true, stream: true }));
    assert.equal((await complete({ ...options, echo: true })).choices[0].text, prompt + plain);
    assert.equal(textOf(chunks), prompt + plain);
  });

  await check('logprobs come as parallel arrays that spell the text', async () => {
    const c = (await complete({ max_tokens: 12, seed: 2, logprobs: 3 })).choices[0];
    const l = c.logprobs;
    assert.equal(l.tokens.length, 12);
    assert.equal(l.token_logprobs.length, 12);
    assert.equal(l.text_offset.length, 12);
    assert.equal(l.tokens.join(''), c.text);
    assert.ok(l.token_logprobs.every((x) => x <= 0));
    for (const top of l.top_logprobs) assert.ok(Object.keys(top).length >= 3);
  });

  await check('echo with logprobs and max_tokens 0 scores the prompt', async () => {
    const c = (await complete({ max_tokens: 0, echo: true, logprobs: 1 })).choices[0];
    assert.equal(c.text, prompt);
    assert.equal(c.logprobs.tokens.join(''), prompt);
    assert.equal(c.logprobs.token_logprobs[0], null);
    assert.ok(c.logprobs.token_logprobs.slice(1).every((x) => x <= 0));
  });

  await check('a stop string ends the text and is not in it', async () => {
    const options = { max_tokens: 60, seed: 4 };
    const whole = (await complete(options)).choices[0].text;
    const stop = whole.slice(20, 25);
    const cut = (await complete({ ...options, stop })).choices[0];
    const chunks = await collect(
      await complete({ ...options, stop: ['zzzz', stop], stream: true }),
    );
    assert.equal(cut.text, whole.slice(0, whole.indexOf(stop)));
    assert.equal(cut.finish_reason, 'stop');
    assert.equal(textOf(chunks), cut.text);
    assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop');
  });

  await check('what the package sends for its own service is taken in and ignored', async () => {
    const more = { user: 'u', store: true, metadata: { a: 'b' }, service_tier: 'auto' };
    assert.equal((await complete({ max_tokens: 3, user: 'u' })).usage.completion_tokens, 3);
    const answer = await talk({
      ...more,
      max_completion_tokens: 3,
      parallel_tool_calls: true,
      prompt_cache_key: 'k',
      safety_identifier: 's',
      response_format: { type: 'text' },
      modalities: ['text'],
      tool_choice: 'none',
    });
    assert.ok(answer.usage.completion_tokens <= 3);
  });

  await check('the request id reaches the caller', async () => {
    const { request_id } = await complete({ max_tokens: 1 }).withResponse();
    assert.match(request_id, /^req_/);
  });

  await check('a chat answer has a message, whole', async () => {
    const c = await talk({ max_completion_tokens: 12, seed: 1 });
    assert.equal(c.object, 'chat.completion');
    assert.equal(c.choices[0].message.role, 'assistant');
    assert.equal(typeof c.choices[0].message.content, 'string');
    assert.ok(['stop', 'length'].includes(c.choices[0].finish_reason));
    assert.ok(c.usage.prompt_tokens > 0);
  });

  await check('a chat stream says what the whole answer says, role first', async () => {
    const options = { max_tokens: 32, seed: 8 };
    const whole = (await talk(options)).choices[0];
    const chunks = await collect(
      await talk({ ...options, stream: true, stream_options: { include_usage: true } }),
    );
    assert.equal(chunks[0].choices[0].delta.role, 'assistant');
    assert.equal(textOf(chunks), whole.message.content);
    assert.equal(chunks.at(-2).choices[0].finish_reason, whole.finish_reason);
    assert.ok(chunks.at(-1).usage.total_tokens > 0);
  });

  await check('the package puts a chat stream together by itself', async () => {
    const options = { max_tokens: 16, seed: 2 };
    const stream = talker.chat.completions.stream({ model: 'tiny', messages, ...options });
    const whole = await talk(options);
    assert.equal(await stream.finalContent(), whole.choices[0].message.content);
  });

  await check('chat logprobs carry tokens, bytes and alternatives', async () => {
    const c = (await talk({ max_tokens: 4, logprobs: true, top_logprobs: 2, seed: 1 })).choices[0];
    assert.ok(c.logprobs.content.length >= 1);
    for (const item of c.logprobs.content) {
      assert.ok(item.logprob <= 0);
      assert.ok(Array.isArray(item.bytes));
      assert.equal(item.top_logprobs.length, 2);
    }
  });

  await check('every role and content in parts is taken', async () => {
    const c = await talk({
      max_tokens: 2,
      messages: [
        { role: 'developer', content: 'Be brief.' },
        { role: 'system', content: [{ type: 'text', text: 'Be kind.' }] },
        { role: 'user', content: [{ type: 'text', text: 'a' }, { type: 'text', text: 'b' }] },
        { role: 'assistant', content: 'c' },
        { role: 'user', content: 'd', name: 'someone' },
      ],
    });
    assert.ok(c.usage.prompt_tokens > 20);
  });
}
