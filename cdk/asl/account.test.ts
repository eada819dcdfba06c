/** `make test-account` without an account: against answers in the form that AWS documents. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { differences, request } from './account.ts';
import { evaluated, execute, expressions, type Step } from './machine.ts';
import { SCENARIOS } from './scenarios.ts';

/** What TestState says of a state that does what `step` did, as its API reference has it. */
function recorded(step: Step) {
  const variables = JSON.stringify(step.after);
  const inspectionData = { variables, ...(step.args && { afterArguments: JSON.stringify(step.args) }) };
  if (step.type === 'Fail') return { status: 'FAILED', error: step.error?.error, cause: step.error?.cause };
  if (step.error) {
    const { error, cause } = step.error;
    return { status: 'CAUGHT_ERROR', nextState: step.next, error, cause, inspectionData };
  }
  const next = step.next === undefined ? {} : { nextState: step.next };
  return { status: 'SUCCEEDED', output: JSON.stringify(step.output), ...next, inspectionData };
}

/** What the API reference says of a request, beyond its form. */
function allowed(body: any) {
  const { mock, context, stateConfiguration, definition, stateName } = body;
  assert(context === undefined || mock !== undefined, `${stateName}: a context needs a mock`);
  if (mock) assert('result' in mock !== 'errorOutput' in mock, `${stateName}: a result or an error`);
  if (!stateConfiguration) return;
  const machine = JSON.parse(definition).States;
  const map = machine[stateName]?.Type === 'Map';
  assert.equal(
    'errorCausedByState' in stateConfiguration,
    map,
    `${stateName}: who caused it, of a Map and of no other`,
  );
  const state = machine[stateName] ?? machine.CountPartitions.ItemProcessor.States[stateName];
  const { error } = mock.errorOutput;
  const retry = (state.Retry ?? []).find((one: any) => one.ErrorEquals.includes(error));
  assert.equal(stateConfiguration.retrierRetryCount, retry?.MaxAttempts ?? 0, `${stateName}: ${error}`);
}

test('the scenarios evaluate every expression, and an answer that is right differs in nothing', async () => {
  evaluated.clear();
  for (const { input, answers } of SCENARIOS) {
    const { steps } = await execute(input, answers);
    for (const step of steps) {
      assert.deepEqual(differences(step, recorded(step)), []);
      const body = request(step, input);
      assert.equal('mock' in body, step.type === 'Task' || step.type === 'Map', step.state);
      allowed(body);
      for (const key of ['definition', 'input', 'variables']) JSON.parse(String(body[key]));
    }
  }
  assert.deepEqual(
    expressions().filter((path) => !evaluated.has(path)),
    [],
  );
});

test('whatever AWS says otherwise is shown', async () => {
  const [first] = SCENARIOS;
  assert(first);
  const { steps } = await execute(first.input, first.answers);
  const step = steps.find(({ state }) => state === 'Count');
  assert(step);
  const right = recorded(step);
  for (const [change, expected] of [
    [{ status: 'FAILED' }, /^status: expected "SUCCEEDED", AWS says "FAILED"/],
    [{ nextState: 'Failed' }, /^next state: expected "CountLeft"/],
    [{ output: '{}' }, /^output: /],
    [{ inspectionData: { ...right.inspectionData, variables: '{"rest":null}' } }, /^variables: /],
    [{ inspectionData: { ...right.inspectionData, afterArguments: '{}' } }, /^arguments: /],
    [{ refused: 'An error occurred (ValidationException)' }, /^An error occurred/],
  ] as const) {
    assert.match(differences(step, { ...right, ...change }).join('; '), expected);
  }
});

test('the command ends with 0, with 1 and each difference, or with 2 when AWS cannot be asked', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'efs-autoscale-asl-'));
  try {
    const run = (script: string, ...more: string[]) => {
      const cli = join(folder, 'aws');
      writeFileSync(cli, `#!${process.execPath}\n${script}`);
      chmodSync(cli, 0o755);
      return spawnSync(
        join(import.meta.dirname, '../node_modules/.bin/tsx'),
        [join(import.meta.dirname, 'account.ts'), ...more],
        {
          env: { PATH: process.env['PATH'], AWS_CLI: cli, CALLS: join(folder, 'calls') },
          encoding: 'utf8',
        },
      );
    };
    const none = run('console.error("Unable to locate credentials"); process.exit(253)');
    assert.deepEqual([none.status, none.stderr], [2, 'test-account: Unable to locate credentials\n']);
    assert.deepEqual([run('', '--dry-run').status, run('', '--help').status], [2, 0]);
    // A state that AWS refuses is one of those that are wrong, and the others are asked about.
    const refused = run('console.error("An error occurred (ValidationException) when calling"); process.exit(254)');
    assert.equal(refused.status, 1);
    assert(refused.stdout.split('\n').filter((line) => line.startsWith('WRONG')).length > 50);
    const answers = [];
    for (const { input, answers: given } of SCENARIOS)
      for (const step of (await execute(input, given)).steps) answers.push([request(step, input), recorded(step)]);
    writeFileSync(join(folder, 'recorded.json'), JSON.stringify(answers));
    const right = run(
      `const asked = JSON.parse(process.argv.at(-1)); const same = require('util').isDeepStrictEqual;
       const all = JSON.parse(require('fs').readFileSync(${JSON.stringify(join(folder, 'recorded.json'))}));
       console.log(JSON.stringify(all.find(([request]) => same(request, asked))[1]))`,
    );
    assert.deepEqual([right.status, right.stderr], [0, '']);
    assert.match(right.stdout, /states on the real engine, 0 of them not as expected\n$/);
    const wrong = run(
      'require("fs").appendFileSync(process.env.CALLS, process.argv[3] + "\\n"); console.log(JSON.stringify({status: "SUCCEEDED"}))',
    );
    assert.equal(wrong.status, 1);
    assert.match(wrong.stdout, /^WRONG Begin \(nothing to do\)\n {6}next state: expected "Count", AWS says undefined/);
    assert.match(wrong.stdout, /states on the real engine, \d+ of them not as expected\n$/);
    const calls = readFileSync(join(folder, 'calls'), 'utf8').trim().split('\n');
    assert(calls.length > 50 && calls.every((call) => call === 'test-state'), `${calls.length} calls`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
