/**
 * `make test-account`: the whole machine, state by state, on the real engine. Step Functions' TestState runs one state with
 * a mocked result; what it says is compared with what `machine.ts` has made of the same state. Nothing is deployed and
 * nothing is called but `states:TestState`, by the AWS CLI.
 */
import { spawnSync } from 'node:child_process';
import { isDeepStrictEqual } from 'node:util';
import { definition, execute, type Step } from './machine.ts';
import { SCENARIOS } from './scenarios.ts';

const HELP = `usage: make test-account [AWS_PROFILE=…] [AWS_REGION=…]

Runs each state of statemachine/autoscale.asl.json by Step Functions' TestState, with mocked results, and compares what
it says with what the tests here expect. Nothing is deployed. It needs the AWS CLI, credentials and a region, and the
permission states:TestState; it needs no role. Some 100 calls, which cost nothing.

A line for each state that is right; a state that differs is shown with both answers. Exit status: 0 when all are right,
1 when any differs or is refused, 2 when AWS cannot be asked.`;

/** The answer of TestState that `step` is to have. */
interface Answer {
  readonly status?: string;
  readonly nextState?: string;
  readonly output?: string;
  readonly error?: string;
  readonly cause?: string;
  readonly inspectionData?: { readonly variables?: string; readonly afterArguments?: string };
  /** What AWS says of a state that it does not run. */
  readonly refused?: string;
}

/** What AWS refuses for what is asked, and not for who asks. */
const REFUSED = /\((ValidationException|InvalidDefinition|InvalidExecutionInput|InvalidArn)\)/;

/** Every state by its name, those of the Map too. */
function states(machine: any = definition()): Record<string, any> {
  const inner = Object.values<any>(machine.States).flatMap((state) => state.ItemProcessor ?? []);
  return Object.assign({}, machine.States, ...inner.map(states));
}

/** The error is what is left after all tries; more than there are is refused. */
function retries(state: any, error: string): number {
  const applies = (state.Retry ?? []).find(({ ErrorEquals }: any) => ErrorEquals.includes(error));
  return applies?.MaxAttempts ?? 0;
}

export function request(step: Step, input: unknown): Record<string, unknown> {
  const errorOutput = step.error && { error: step.error.error, ...(step.error.cause && { cause: step.error.cause }) };
  const works = step.type === 'Task' || step.type === 'Map';
  const error = works ? step.error?.error : undefined;
  return {
    definition: JSON.stringify(definition()),
    stateName: step.state,
    input: JSON.stringify(step.input),
    variables: JSON.stringify(step.before),
    inspectionLevel: 'DEBUG',
    // Without a mock there may be no context either.
    ...(works && {
      context: JSON.stringify({ Execution: { Id: 'arn:execution', Input: input } }),
      mock: {
        ...(errorOutput ? { errorOutput } : { result: JSON.stringify(step.result) }),
        fieldValidationMode: 'NONE',
      },
    }),
    ...(error !== undefined && {
      stateConfiguration: {
        retrierRetryCount: retries(states()[step.state], error),
        ...(step.type === 'Map' && { errorCausedByState: definition().States[step.state].ItemProcessor.StartAt }),
      },
    }),
  };
}

/** What of an answer is not as `step` was; nothing when all of it is. */
export function differences(step: Step, answer: Answer): string[] {
  if (answer.refused !== undefined) return [answer.refused];
  const found: string[] = [];
  const expect = (what: string, expected: unknown, is: unknown) => {
    if (!isDeepStrictEqual(expected, is))
      found.push(`${what}: expected ${JSON.stringify(expected)}, AWS says ${JSON.stringify(is)}`);
  };
  const json = (text: string | undefined) => (text === undefined ? undefined : JSON.parse(text));
  const fails = step.type === 'Fail';
  expect('status', fails ? 'FAILED' : step.error ? 'CAUGHT_ERROR' : 'SUCCEEDED', answer.status);
  expect('next state', step.next, answer.nextState);
  if (fails) expect('error', step.error, { error: answer.error, cause: answer.cause });
  if (!fails && !step.error) expect('output', step.output, json(answer.output));
  if (step.args) expect('arguments', step.args, json(answer.inspectionData?.afterArguments));
  const variables = json(answer.inspectionData?.variables);
  // Of a state that assigns nothing it may say nothing.
  if (variables !== undefined) expect('variables', step.after, { ...step.before, ...variables });
  return found;
}

function ask(body: Record<string, unknown>): Answer {
  const program = process.env['AWS_CLI'] ?? 'aws';
  const text = JSON.stringify(body);
  const asked = spawnSync(program, ['stepfunctions', 'test-state', '--output', 'json', '--cli-input-json', text], {
    encoding: 'utf8',
    timeout: 120_000,
    // A call that is throttled is made again, by the CLI.
    env: { AWS_RETRY_MODE: 'adaptive', AWS_MAX_ATTEMPTS: '10', ...process.env },
  });
  if (asked.error) throw new Error(`${program}: ${asked.error.message}; it is the AWS CLI, version 2`);
  if (asked.status !== 0) {
    const refused = asked.stderr.trim();
    if (REFUSED.test(refused)) return { refused };
    throw new Error(refused || `${program} ended with ${asked.signal ?? asked.status}`);
  }
  return JSON.parse(asked.stdout) as Answer;
}

async function main(): Promise<number> {
  const [argument] = process.argv.slice(2);
  if (argument === '--help') {
    console.log(HELP);
    return 0;
  }
  if (argument !== undefined) throw new Error(`${argument} is no argument of it: --help says what there is`);
  let wrong = 0;
  const seen = new Set<string>();
  for (const { name, input, answers } of SCENARIOS) {
    const { steps } = await execute(input, answers);
    for (const step of steps) {
      const body = request(step, input);
      // The same state in the same world was asked about in another scenario.
      if (seen.has(JSON.stringify(body))) continue;
      seen.add(JSON.stringify(body));
      const found = differences(step, ask(body));
      console.log(`${found.length === 0 ? 'ok   ' : 'WRONG'} ${step.state} (${name})`);
      for (const line of found) console.log(`      ${line}`);
      wrong += found.length > 0 ? 1 : 0;
    }
  }
  console.log(`${seen.size} states on the real engine, ${wrong} of them not as expected`);
  return wrong > 0 ? 1 : 0;
}

if (import.meta.filename === process.argv[1]) {
  try {
    process.exitCode = await main();
  } catch (failed) {
    console.error(`test-account: ${(failed as Error).message}`);
    process.exitCode = 2;
  }
}
