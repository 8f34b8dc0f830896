// ai_sdk.mjs - the ai package with @ai-sdk/openai-compatible: generate and stream, both APIs.
import assert from 'node:assert/strict';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';

export default async function checks(check, { demo, chat }) {
  const provide = (server) =>
    createOpenAICompatible({ name: 'eddy', baseURL: server.baseURL, includeUsage: true });
  const completion = provide(demo).completionModel('eddy-tales');
  const talk = provide(chat).chatModel('tiny');
  const options = { prompt: 'Once upon a time', maxOutputTokens: 16, seed: 3, maxRetries: 0 };

  for (const [name, model] of [['completion', completion], ['chat', talk]]) {
    await check(`${name}: a stream says what the whole answer says`, async () => {
      const whole = await generateText({ model, ...options });
      const stream = streamText({ model, ...options, onError: () => {} });
      let text = '';
      for await (const delta of stream.textStream) text += delta;
      assert.ok(whole.text.length > 0);
      assert.equal(text, whole.text);
      assert.equal(await stream.finishReason, whole.finishReason);
      assert.deepEqual((await stream.usage).outputTokens, whole.usage.outputTokens);
      assert.ok(whole.usage.inputTokens > 0);
    });
  }

  await check('sampling settings and stop sequences are taken', async () => {
    const answer = await generateText({
      model: talk, ...options, temperature: 0.5, topP: 0.9, presencePenalty: 0.1,
      frequencyPenalty: 0.1, stopSequences: ['zzzz'],
    });
    assert.ok(answer.usage.outputTokens <= 16);
  });

  await check('a session goes through the provider options', async () => {
    const created = await fetch(`${chat.baseURL}/sessions`, { method: 'POST' });
    const { id } = await created.json();
    const providerOptions = { eddy: { session_id: id } };
    await generateText({ model: talk, ...options, providerOptions });
    const second = await generateText({ model: talk, ...options, providerOptions });
    assert.ok(second.usage.cachedInputTokens > 0);
    assert.equal((await (await fetch(`${chat.baseURL}/sessions/${id}`)).json()).version, 2);
  });

  await check('a refusal carries the message and is not to be retried', async () => {
    const wrong = provide(demo).completionModel('gpt-9');
    const error = await generateText({ model: wrong, ...options }).then(
      () => assert.fail('the call was answered'),
      (e) => e,
    );
    assert.equal(error.statusCode, 404);
    assert.equal(error.isRetryable, false);
    assert.match(error.message, /eddy-tales/);
  });
}
