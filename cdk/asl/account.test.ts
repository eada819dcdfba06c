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
  if (step.type === 'Fail') return { status: 'FAILED', error: step.error?.error, cause: step.error?.cause };
  if (step.error) {
    const { error, cause } = step.error;
    return { status: 'CAUGHT_ERROR', nextState: step.next, error, cause, inspectionData: { variables } };
  }
  const next = step.next === undefined ? {} : { nextState: step.next };
  return { status: 'SUCCEEDED', output: JSON.stringify(step.output), ...next, inspectionData: { variables } };
}

test('the scenarios evaluate every expression, and an answer that is right differs in nothing', async () => {
  evaluated.clear();
  for (const { input, answers } of SCENARIOS) {
    const { steps } = await execute(input, answers);
    for (const step of steps) {
      assert.deepEqual(differences(step, recorded(step)), []);
      const body = request(step, input);
      assert.equal('mock' in body, step.type === 'Task' || step.type === 'Map', step.state);
      for (const key of ['definition', 'input', 'variables', 'context']) JSON.parse(String(body[key]));
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
    [{ inspectionData: { variables: '{"rest":null}' } }, /^variables: /],
  ] as const) {
    assert.match(differences(step, { ...right, ...change }).join('; '), expected);
  }
});

test('the command ends with 0, with 1 and each difference, or with 2 when AWS cannot be asked', () => {
  const folder = mkdtempSync(join(tmpdir(), 'efs-autoscale-asl-'));
  try {
    const run = (script: string) => {
      const cli = join(folder, 'aws');
      writeFileSync(cli, `#!${process.execPath}\n${script}`);
      chmodSync(cli, 0o755);
      return spawnSync(
        join(import.meta.dirname, '../node_modules/.bin/tsx'),
        [join(import.meta.dirname, 'account.ts')],
        {
          env: { PATH: process.env['PATH'], AWS_CLI: cli, CALLS: join(folder, 'calls') },
          encoding: 'utf8',
        },
      );
    };
    const none = run('console.error("Unable to locate credentials"); process.exit(253)');
    assert.deepEqual([none.status, none.stderr], [2, 'test-account: Unable to locate credentials\n']);
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
