/**
 * The state machine of `statemachine/`, run with the JSONata that Step Functions has, and with what the functions answer
 * as a test says it. Of the Amazon States Language it knows what this machine uses. An expression without a value is an
 * error, as it is there.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import jsonata from 'jsonata';

type Json = any;

/** What a Task state is answered: a payload, or an error after all retries. */
export type Answer = { payload: Json } | { error: string; cause?: string };
/** For each Task state, and for a Map that fails as a whole: by what it is called with, and how often it has been. */
export type Answers = Record<string, (payload: Json, times: number) => Answer>;

/** One state, as it was entered and left: what AWS's own engine has to say of it, too. */
export interface Step {
  readonly state: string;
  readonly type: string;
  readonly input: Json;
  /** As they were when it was entered, and when it was left. */
  readonly before: Record<string, Json>;
  readonly after: Record<string, Json>;
  /** What a Task or a Map came to. */
  readonly result?: Json;
  /** What a Task calls its function with. */
  readonly args?: Json;
  readonly error?: { error: string; cause: string };
  readonly next?: string;
  readonly output?: Json;
}

export interface Run {
  /** The states in order; those of the Map too. */
  readonly entered: string[];
  /** What each function was called with. */
  readonly calls: { state: string; payload: Json }[];
  readonly output?: Json;
  readonly failed?: { error: string; cause: string };
  readonly steps: Step[];
}

const FILE = join(import.meta.dirname, '..', '..', 'statemachine', 'autoscale.asl.json');
const SUBSTITUTIONS: Record<string, string> = { PollIntervalSeconds: '10', PollTimeoutSeconds: '30' };
/** What `States.ALL` does not catch. */
const TERMINAL = ['States.DataLimitExceeded', 'States.Runtime'];
const EXPRESSION = /^\{%([\s\S]*)%\}$/;

export function definition(): Json {
  const text = readFileSync(FILE, 'utf8');
  // A function has the name of its placeholder.
  return JSON.parse(text.replaceAll(/\$\{(\w+)\}/g, (_, name: string) => SUBSTITUTIONS[name] ?? name));
}

/** Every expression of the machine, by where it stands. */
export function expressions(at: Json = definition(), path = ''): string[] {
  if (typeof at === 'string') return EXPRESSION.test(at) ? [path] : [];
  if (at === null || typeof at !== 'object') return [];
  return Object.entries(at).flatMap(([key, inner]) => expressions(inner, `${path}/${key}`));
}

/** Where the expressions stand that any run has evaluated. */
export const evaluated = new Set<string>();

class Failed extends Error {
  readonly error: string;
  /** Was a cause said, be it an empty one? */
  readonly hasCause: boolean;

  constructor(error: string, cause?: string) {
    super(cause);
    this.error = error;
    this.hasCause = cause !== undefined;
  }
}

/** What is there once for an execution, and what its states have assigned. */
interface Frame {
  readonly answers: Answers;
  readonly context: Json;
  readonly run: { entered: string[]; calls: { state: string; payload: Json }[]; steps: Step[] };
  readonly variables: Record<string, Json>;
}

async function value(at: Json, path: string, frame: Frame, states: Json): Promise<Json> {
  if (Array.isArray(at)) return Promise.all(at.map((one, index) => value(one, `${path}/${index}`, frame, states)));
  if (at !== null && typeof at === 'object') {
    const entries = Object.entries(at).map(async ([key, one]) => [
      key,
      await value(one, `${path}/${key}`, frame, states),
    ]);
    return Object.fromEntries(await Promise.all(entries));
  }
  const [, text] = (typeof at === 'string' && EXPRESSION.exec(at)) || [];
  if (text === undefined) return at;
  evaluated.add(path);
  const bound = { ...frame.variables, states: { ...states, context: frame.context } };
  const found = await jsonata(text).evaluate(undefined, structuredClone(bound));
  if (found === undefined) throw new Failed('States.QueryEvaluationError', `no value at ${path}: ${text}`);
  // As JSON passes it on: a sequence is an array.
  return JSON.parse(JSON.stringify(found));
}

async function assign(at: Json, path: string, frame: Frame, states: Json) {
  if (at.Assign) Object.assign(frame.variables, await value(at.Assign, `${path}/Assign`, frame, states));
}

/** What a Task or a Map has come to. */
async function work(name: string, state: Json, path: string, frame: Frame, input: Json, args: Json): Promise<Json> {
  if (state.Type === 'Map') {
    const items = await value(state.Items, `${path}/Items`, frame, { input });
    // As when the results of all parts together are too large for a state.
    const whole = frame.answers[name]?.(items, 1);
    if (whole && 'error' in whole) throw new Failed(whole.error, whole.cause);
    const { ItemProcessor } = state;
    return Promise.all(
      // What is assigned within stays within.
      items.map((item: Json) =>
        walk(ItemProcessor, `${path}/ItemProcessor`, { ...frame, variables: { ...frame.variables } }, item),
      ),
    );
  }
  const { Payload } = args;
  const times = frame.run.calls.filter((call) => call.state === name).length + 1;
  frame.run.calls.push({ state: name, payload: Payload });
  const answer = frame.answers[name]?.(Payload, times);
  if (answer === undefined) throw new Error(`the test has no answer of ${name}`);
  if ('error' in answer) throw new Failed(answer.error, answer.cause);
  return { Payload: structuredClone(answer.payload) };
}

async function walk(machine: Json, path: string, frame: Frame, input: Json): Promise<Json> {
  let name: string = machine.StartAt;
  for (let step = 0; step < 500; step += 1) {
    frame.run.entered.push(name);
    const [state, at] = [machine.States[name], `${path}/States/${name}`];
    const entered = { state: name, type: state.Type, input, before: structuredClone(frame.variables) };
    const left = await enter(name, state, at, frame, input);
    frame.run.steps.push({ ...entered, ...left, after: structuredClone(frame.variables) });
    if (state.Type === 'Fail') throw new Failed(left.error?.error ?? '', left.error?.cause);
    if (left.next === undefined) return left.output;
    [input, name] = [left.output, left.next];
  }
  throw new Error('no end');
}

type Left = Pick<Step, 'result' | 'args' | 'error' | 'next' | 'output'>;

function catches({ ErrorEquals }: Json, error: string) {
  return ErrorEquals.some((one: string) => one === error || (one === 'States.ALL' && !TERMINAL.includes(error)));
}

async function enter(name: string, state: Json, at: string, frame: Frame, input: Json): Promise<Left> {
  const next: string | undefined = state.Next;
  switch (state.Type) {
    case 'Fail': {
      const error = await value(state.Error, `${at}/Error`, frame, { input });
      return { error: { error, cause: await value(state.Cause, `${at}/Cause`, frame, { input }) } };
    }
    case 'Choice':
      for (const [index, choice] of state.Choices.entries()) {
        const rule = `${at}/Choices/${index}`;
        const holds = await value(choice.Condition, `${rule}/Condition`, frame, { input });
        if (typeof holds !== 'boolean') throw new Failed('States.QueryEvaluationError', `${rule}: ${holds}`);
        if (!holds) continue;
        await assign(choice, rule, frame, { input });
        return { next: choice.Next, output: input };
      }
      return { next: state.Default, output: input };
    case 'Task':
    case 'Map': {
      const args = state.Arguments && (await value(state.Arguments, `${at}/Arguments`, frame, { input }));
      try {
        const result = await work(name, state, at, frame, input, args);
        const states = { input, result };
        await assign(state, at, frame, states);
        const output = state.Output === undefined ? result : await value(state.Output, `${at}/Output`, frame, states);
        return { result, args, ...(!state.End && { next }), output };
      } catch (failed) {
        // What a Catch takes is what a function has answered; an expression that is wrong is the test's to see.
        if (!(failed instanceof Failed) || failed.error === 'States.QueryEvaluationError') throw failed;
        const index = (state.Catch ?? []).findIndex((one: Json) => catches(one, failed.error));
        if (index < 0) throw failed;
        const errorOutput = { Error: failed.error, ...(failed.hasCause && { Cause: failed.message }) };
        await assign(state.Catch[index], `${at}/Catch/${index}`, frame, { input, errorOutput });
        const error = { error: failed.error, cause: failed.message };
        return { error, args, next: state.Catch[index].Next, output: errorOutput };
      }
    }
    case 'Wait': {
      const seconds = await value(state.Seconds, `${at}/Seconds`, frame, { input });
      if (!Number.isInteger(seconds)) throw new Failed('States.QueryEvaluationError', `${at}: ${seconds} s`);
      return { next, output: input };
    }
    case 'Pass': {
      await assign(state, at, frame, { input });
      const output = state.Output === undefined ? input : await value(state.Output, `${at}/Output`, frame, { input });
      return { ...(!state.End && { next }), output };
    }
    default:
      return { output: input };
  }
}

/** One execution, from its input to its end. */
export async function execute(input: Json, answers: Answers): Promise<Run> {
  const run: Frame['run'] = { entered: [], calls: [], steps: [] };
  const context = { Execution: { Id: 'arn:execution', Input: input } };
  try {
    return { ...run, output: await walk(definition(), '', { answers, context, run, variables: {} }, input) };
  } catch (failed) {
    if (!(failed instanceof Failed) || failed.error === 'States.QueryEvaluationError') throw failed;
    return { ...run, failed: { error: failed.error, cause: failed.message } };
  }
}
