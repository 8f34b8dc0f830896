// langchain.mjs - @langchain/openai: ChatOpenAI and OpenAI, invoke, stream and batch.
import assert from 'node:assert/strict';
import { ChatOpenAI, OpenAI } from '@langchain/openai';

export default async function checks(check, { demo, chat }) {
  const shared = { apiKey: 'none', maxRetries: 0 };
  const talker = (more) =>
    new ChatOpenAI({
      ...shared, model: 'tiny', maxTokens: 12, configuration: { baseURL: chat.baseURL },
      modelKwargs: { seed: 3 }, ...more,
    });
  const writer = (more) =>
    new OpenAI({
      ...shared, model: 'eddy-tales', maxTokens: 12, configuration: { baseURL: demo.baseURL },
      modelKwargs: { seed: 3 }, ...more,
    });

  await check('chat: a stream says what the whole answer says, with usage', async () => {
    const whole = await talker().invoke('hi');
    let text = '';
    let usage;
    for await (const chunk of await talker().stream('hi')) {
      text += chunk.content;
      usage = chunk.usage_metadata ?? usage;
    }
    assert.ok(whole.content.length > 0);
    assert.equal(text, whole.content);
    assert.equal(usage.output_tokens, whole.usage_metadata.output_tokens);
  });

  await check('chat: a conversation with a system message', async () => {
    const answer = await talker().invoke([
      ['system', 'Be brief.'],
      ['human', 'hi'],
      ['ai', 'hello'],
      ['human', 'and?'],
    ]);
    assert.equal(typeof answer.content, 'string');
  });

  await check('chat: a session goes through modelKwargs', async () => {
    const { id } = await (await fetch(`${chat.baseURL}/sessions`, { method: 'POST' })).json();
    const model = talker({ modelKwargs: { session_id: id } });
    await model.invoke('hello');
    const second = await model.invoke('and?');
    assert.ok(second.usage_metadata.input_token_details.cache_read > 0);
  });

  await check('completion: a stream says what the whole answer says', async () => {
    const whole = await writer().invoke('Once upon a time');
    let text = '';
    for await (const piece of await writer().stream('Once upon a time')) text += piece;
    assert.ok(whole.length > 0);
    assert.equal(text, whole);
  });

  await check('completion: a batch is one request with several prompts', async () => {
    const texts = await writer({ temperature: 0 }).batch(['The dog', 'The cat']);
    assert.equal(texts.length, 2);
    assert.ok(texts.every((text) => text.length > 0));
  });

  await check('a refusal carries the code', async () => {
    const error = await talker({ model: 'gpt-9' }).invoke('hi').then(
      () => assert.fail('the call was answered'),
      (e) => e,
    );
    assert.equal(error.status, 404);
    assert.equal(error.code, 'model_not_found');
  });
}
