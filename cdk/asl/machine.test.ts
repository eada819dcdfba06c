/** Every expression of the state machine, by the JSONata that Step Functions has: on whole ways through the machine. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { evaluated, execute, expressions, type Answer, type Answers } from './machine.ts';

const payload = (payload: unknown): Answer => ({ payload });
const counted = (files: number, rest: unknown[] = [], missed = false) =>
  payload({ files, missed, rest, complete: true });
const OBSERVED = { observed: { files: 1 }, warnings: [] };
const decided = (decision: object, more: object = {}) => payload({ decision, dry_run: false, ...OBSERVED, ...more });
const nothing = decided({ action: 'nothing', reason: 'below_threshold' });
const published = payload({ version: 3, fingerprint: 'abc', changed: true, mount_targets: [] });
const redeployed = payload({ outcome: 'started', version: 3, deployment_id: 'ecs-svc/1', warnings: [] });
const target = { mount_target_id: 'fsmt-1', outcome: 'created', created_at: 7 };
const polled = (available: boolean) =>
  payload({ mount_target_id: 'fsmt-1', state: available ? 'available' : 'creating', available });
const create = decided({ action: 'create', subnet_id: 'subnet-3', zone_id: 'az3' });

/** A cycle without surprises, and what a test says otherwise. */
const answers = (other: Answers): Answers => ({
  Count: () => counted(5),
  Evaluate: () => nothing,
  PublishSsm: () => published,
  Redeploy: () => redeployed,
  CreateTarget: () => payload(target),
  PollAvailable: () => polled(true),
  ...other,
});
const run = (other: Answers = {}, input: unknown = {}) => execute(input, answers(other));
const evaluatedWith = (calls: { state: string; payload: any }[]) =>
  calls
    .filter(({ state }) => state === 'Evaluate')
    .map(({ payload: { counted, excluded } }) => ({ counted, excluded }));
const NONE = { subnets: [], zones: [] };

test('nothing to do: the input, the count and the decision go through as they are', async () => {
  for (const input of [{}, { dry_run: true, threshold: 0 }, { Comment: null }]) {
    const { calls, output, entered } = await run({}, input);
    assert.deepEqual(calls[0]?.payload, { execution: 'arn:execution', start: input });
    assert.deepEqual(calls[1]?.payload, {
      execution: 'arn:execution',
      start: input,
      counted: { files: 5, complete: true },
      excluded: NONE,
    });
    assert.deepEqual(entered, ['Begin', 'Count', 'CountLeft', 'Evaluate', 'Decide', 'Report', 'Counted', 'Done']);
    const decision = { action: 'nothing', reason: 'below_threshold' };
    const rest = { target: {}, published: {}, redeployed: {} };
    assert.deepEqual(output, { decision, dry_run: false, ...OBSERVED, ...rest });
  }
});

test('a dry run ends after the decision, whatever it is', async () => {
  for (const action of ['publish', 'redeploy', 'adopt', 'create', 'no_available_targets', 'nothing']) {
    const { entered, output } = await run({ Evaluate: () => decided({ action }, { dry_run: true }) });
    assert.deepEqual(entered.slice(-4), ['Decide', 'Report', 'Counted', 'Done'], action);
    assert.equal(output.dry_run, true);
  }
});

test('the first execution publishes and redeploys', async () => {
  const { calls, output } = await run({ Evaluate: () => decided({ action: 'publish' }) });
  const [publish, redeploy] = calls.slice(-2).map((call) => call.payload);
  assert.deepEqual(publish, { execution: 'arn:execution', must_include: null });
  assert.deepEqual(redeploy, { execution: 'arn:execution', published_version: 3, fingerprint: 'abc' });
  assert.deepEqual([output.published.version, output.redeployed.outcome], [3, 'started']);
  // A function of the version before, in the middle of an upgrade.
  const before = await run({
    Evaluate: () => decided({ action: 'publish' }),
    PublishSsm: () => payload({ version: 3, changed: true, mount_targets: [] }),
  });
  assert.equal(before.calls.at(-1)?.payload.fingerprint, null);
});

test('a redeployment that is due is made for the list that was decided on', async () => {
  const decision = { action: 'redeploy', version: 9, fingerprint: 'def' };
  const due = await run({ Evaluate: () => decided(decision) });
  assert.deepEqual(due.calls.at(-1)?.payload, { execution: 'arn:execution', published_version: 9, fingerprint: 'def' });
  const before = await run({ Evaluate: () => decided({ action: 'redeploy', version: 9 }) });
  assert.equal(before.calls.at(-1)?.payload.fingerprint, null);
});

test('a target is created, waited for, published; one that is adopted has no beginning', async () => {
  const { calls, output, entered } = await run({
    Evaluate: () => create,
    PollAvailable: (_, times) => polled(times > 2),
  });
  const of = (state: string) => calls.filter((call) => call.state === state).map((call) => call.payload);
  assert.deepEqual(of('CreateTarget'), [{ execution: 'arn:execution', subnet_id: 'subnet-3', zone_id: 'az3' }]);
  assert.deepEqual(of('PollAvailable')[0], { execution: 'arn:execution', mount_target_id: 'fsmt-1', created_at: 7 });
  assert.equal(of('PollAvailable').length, 3);
  assert.equal(of('PublishSsm')[0].must_include, 'fsmt-1');
  assert.deepEqual(output.target, target);
  assert.equal(entered.filter((state) => state === 'WaitForTarget').length, 3);

  const adopted = await run({ Evaluate: () => decided({ action: 'adopt', mount_target_id: 'fsmt-9' }) });
  const poll = adopted.calls.find(({ state }) => state === 'PollAvailable')?.payload;
  assert.deepEqual([poll.mount_target_id, poll.created_at], ['fsmt-9', null]);
  const taken = await run({
    Evaluate: () => create,
    CreateTarget: () => payload({ mount_target_id: 'fsmt-1', outcome: 'adopted', created_at: null }),
  });
  assert.equal(taken.calls.find(({ state }) => state === 'PollAvailable')?.payload.created_at, null);

  const late = await run({ Evaluate: () => create, PollAvailable: () => polled(false) });
  assert.deepEqual(late.failed, {
    error: 'TargetTimedOut',
    cause: 'the mount target fsmt-1 is still creating after 30 s; the next execution adopts it and waits on',
  });
});

test('what EFS refuses is left out of the next choice: none, one, many', async () => {
  const refused = await run({
    Evaluate: (_, times) =>
      times < 5 ? decided({ action: 'create', subnet_id: `subnet-${times}`, zone_id: `az${times}` }) : nothing,
    CreateTarget: (_, times) => ({ error: times === 3 ? 'ZoneRefused' : 'SubnetRefused', cause: 'no' }),
  });
  assert.deepEqual(
    evaluatedWith(refused.calls).map(({ excluded }) => excluded),
    [
      NONE,
      { subnets: ['subnet-1'], zones: [] },
      { subnets: ['subnet-1', 'subnet-2'], zones: [] },
      { subnets: ['subnet-1', 'subnet-2'], zones: ['az3'] },
      { subnets: ['subnet-1', 'subnet-2', 'subnet-4'], zones: ['az3'] },
    ],
  );
  assert.equal(refused.failed, undefined, 'what was refused and made good is no failure');
  const zones = await run({
    Evaluate: (_, times) => (times < 4 ? create : nothing),
    CreateTarget: () => ({ error: 'ZoneRefused' }),
  });
  assert.deepEqual(evaluatedWith(zones.calls).at(-1)?.excluded, { subnets: [], zones: ['az3', 'az3', 'az3'] });
  const endless = await run({
    Evaluate: () => create,
    CreateTarget: () => ({ error: 'SubnetRefused', cause: 'full' }),
  });
  assert.deepEqual(
    [endless.failed, evaluatedWith(endless.calls).length],
    [{ error: 'SubnetRefused', cause: 'full' }, 51],
  );
});

test('a count in parts: none, one, many, lost ones, and more rounds than there may be', async () => {
  const part = (name: string) => ({ directories: [name] });
  const one = await run({
    Count: () => counted(2, [part('a')]),
    CountPartition: () => counted(3),
  });
  assert.deepEqual(one.calls[1]?.payload, { execution: 'arn:execution', partition: part('a'), partitions: 1 });
  assert.deepEqual(evaluatedWith(one.calls)[0]?.counted, { files: 5, complete: true });

  const many = await run({
    Count: () => counted(1, [part('a'), part('b'), part('c')]),
    // The first round leaves two parts of one of them, the second one nothing.
    CountPartition: ({ partition, partitions }) =>
      counted(10, partitions === 3 && partition.directories[0] === 'b' ? [part('d'), part('e')] : []),
  });
  assert.deepEqual(
    many.calls
      .filter(({ state }) => state === 'CountPartition')
      .map(({ payload }) => [payload.partition.directories[0], payload.partitions]),
    [
      ['a', 3],
      ['b', 3],
      ['c', 3],
      ['d', 2],
      ['e', 2],
    ],
  );
  assert.deepEqual(evaluatedWith(many.calls)[0]?.counted, { files: 51, complete: true });

  // A part that is itself a list stays one.
  const nested = await run({ Count: () => counted(0, [[1, 2]]), CountPartition: () => counted(1) });
  assert.deepEqual(nested.calls[1]?.payload.partition, [1, 2]);

  const lost = await run({
    Count: () => counted(1, [part('a'), part('b')]),
    CountPartition: ({ partition }) => (partition.directories[0] === 'a' ? { error: 'Lambda.Unknown' } : counted(4)),
  });
  assert.deepEqual(evaluatedWith(lost.calls)[0]?.counted, { files: 5, complete: false });
  const missed = await run({ Count: () => counted(1, [part('a')]), CountPartition: () => counted(1, [], true) });
  assert.deepEqual(evaluatedWith(missed.calls)[0]?.counted, { files: 2, complete: false });
  const tooLarge = await run({
    Count: () => counted(1, [part('a')]),
    CountPartition: () => counted(1),
    CountPartitions: () => ({ error: 'States.DataLimitExceeded' }),
  });
  assert.deepEqual(evaluatedWith(tooLarge.calls)[0]?.counted, { files: 1, complete: false });
  const late = await run({
    Count: () => counted(1, [part('a')]),
    CountPartitions: () => ({ error: 'States.Timeout' }),
  });
  assert.deepEqual(evaluatedWith(late.calls)[0]?.counted, { files: 1, complete: false });
  const endless = await run({
    Count: () => counted(0, [part('a')]),
    CountPartition: () => counted(1, [part('a')]),
  });
  assert.deepEqual(evaluatedWith(endless.calls)[0]?.counted, { files: 4, complete: false }, 'four rounds');
});

test('a count that fails is null, the repairs are made, and the execution fails at its end', async () => {
  for (const cause of ['no such directory', '', undefined]) {
    const error = 'TargetDirectoryUnreadable';
    const { calls, failed, entered } = await run({
      Count: () => ({ error, ...(cause !== undefined && { cause }) }),
      Evaluate: () => decided({ action: 'publish' }),
    });
    assert.deepEqual(evaluatedWith(calls)[0], { counted: null, excluded: NONE });
    assert(entered.includes('PublishSsm') && entered.includes('Redeploy'));
    assert.deepEqual(failed, { error, cause: cause || 'no cause is given' });
  }
});

test('every error ends the execution with its code, and with a cause where there is none', async () => {
  const actions: Record<string, Answer> = {
    Evaluate: nothing,
    CreateTarget: create,
    PollAvailable: create,
    PublishSsm: decided({ action: 'publish' }),
    Redeploy: decided({ action: 'publish' }),
  };
  for (const [state, decision] of Object.entries(actions)) {
    for (const cause of ['why', undefined]) {
      const answer: Answer = { error: 'AwsRefused', ...(cause && { cause }) };
      const { failed } = await run({ Evaluate: () => decision, [state]: () => answer });
      assert.deepEqual(failed, { error: 'AwsRefused', cause: cause ?? 'no cause is given' }, state);
    }
  }
  for (const state of ['Count', 'Evaluate']) {
    for (const cause of ['`threshold` is -1', undefined]) {
      const { failed } = await run({ [state]: () => ({ error: 'InvalidInput', ...(cause && { cause }) }) });
      assert.deepEqual(failed, { error: 'InvalidInput', cause: cause ?? 'no cause is given' }, state);
    }
  }
  const unnamed = await run({ Evaluate: () => ({ error: '' }) });
  assert.deepEqual(unnamed.failed, { error: 'UnknownError', cause: 'no cause is given' });
  for (const error of ['SubnetRefused', 'ZoneRefused']) {
    const { failed } = await run({ Evaluate: () => create, CreateTarget: () => ({ error }) });
    assert.equal(failed?.cause, 'no cause is given');
  }
  const { failed } = await run({ Evaluate: () => decided({ action: 'no_available_targets' }) });
  assert.equal(failed?.error, 'NoAvailableTargets');
});

after(() => {
  const all = expressions();
  assert(all.length > 60, `only ${all.length} expressions were found: has the form of the file changed?`);
  const left = all.filter((path) => !evaluated.has(path));
  assert.deepEqual(left, [], 'no test evaluates these');
});
