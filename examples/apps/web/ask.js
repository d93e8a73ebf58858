// Asks the model in the folder `model` beside this page, on the GPU or else on the processor.
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
const [form, status, answer] = ["form", "p", "pre"].map((name) => document.querySelector(name));
for (const kind of ["error", "unhandledrejection"])
  addEventListener(kind, (event) => (status.textContent = event.reason ?? event.message));
async function read(name) {
  const response = await fetch(`model/${name}`);
  if (!response.ok) throw new Error(`model/${name}: ${response.status}`);
  return response.text();
}
const { decoder, ...config } = JSON.parse(await read("genai_config.json")).model;
const names = JSON.parse(await read("tokenizer_config.json"));
const tokenizer = new Tokenizer(JSON.parse(await read("tokenizer.json")), names);
const template = new Template(await read("chat_template.jinja"));

async function open(provider) {
  const ort = await import(`onnxruntime-web/${provider}`);
  const path = `${decoder.filename}.data`;
  const session = await ort.InferenceSession.create(`model/${decoder.filename}`, {
    executionProviders: [provider], externalData: [{ path, data: `model/${path}` }] });
  const types = Object.fromEntries(session.inputMetadata.map((input) => [input.name, input.type]));
  return { provider, ort, session, types };
}
const gpu = await navigator.gpu?.requestAdapter();
let model = await open(gpu ? "webgpu" : "wasm");
if (gpu && !gpu.features.has("shader-f16") && Object.values(model.types).includes("float16"))
  model = await open("wasm");

async function* ask({ ort, session, types }, text, limit = 64) {
  const integers = (list) => new ort.Tensor("int64", list.map(BigInt), [1, list.length]);
  const messages = [{ role: "user", content: text }];
  const prompt = template.render({ ...names, messages, add_generation_prompt: true });
  let ids = tokenizer.encode(prompt, { add_special_tokens: false }).ids;
  const past = session.inputNames.filter((name) => name.startsWith("past_key_values."));
  const shape = [1, decoder.num_key_value_heads, 0, decoder.head_size];
  const feeds = Object.fromEntries(past.map((name) => [name, new ort.Tensor(
    types[name], types[name] === "float16" ? new Float16Array() : new Float32Array(), shape)]));
  for (let read = 0, answered = []; answered.length < limit; ids = answered.slice(-1)) {
    if (read + ids.length > config.context_length) throw new Error("the text is too long");
    feeds.input_ids = integers(ids);
    if ("position_ids" in types) feeds.position_ids = integers(ids.map((_, i) => read + i));
    feeds.attention_mask = integers(Array((read += ids.length)).fill(1));
    const outputs = await session.run(feeds);
    for (const name of past) feeds[name] = outputs[name.replace("past_key_values", "present")];
    const logits = outputs.logits.data.subarray(-outputs.logits.dims[2]);
    const best = logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
    if ([config.eos_token_id].flat().includes(best)) return;
    answered.push(best);
    yield tokenizer.decode(answered, { skip_special_tokens: true });
  }
}
form.onsubmit = async (event) => {
  event.preventDefault();
  form.elements[0].disabled = true;
  try { for await (const part of ask(model, form.text.value)) answer.textContent = part; }
  finally { form.elements[0].disabled = false; }
};
form.elements[0].disabled = false;
status.textContent = `ready, by ${model.provider}`;
