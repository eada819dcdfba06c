/** Executions that together evaluate every expression of the machine: for AWS's own engine, in `make test-account`. */
import type { Answer, Answers } from './machine.ts';

export interface Scenario {
  readonly name: string;
  readonly input: unknown;
  readonly answers: Answers;
}

const payload = (payload: unknown): Answer => ({ payload });
const decided = (decision: object) => payload({ decision, dry_run: false, warnings: [], observed: {} });
const counted = (files: number, rest: unknown[] = []) => payload({ files, missed: false, rest });
const refused: Answer = { error: 'AwsRefused', cause: 'said AWS' };
const create = decided({ action: 'create', subnet_id: 'subnet-3', zone_id: 'az3' });
const publish = decided({ action: 'publish' });

const usual: Answers = {
  Count: () => counted(5),
  Evaluate: () => decided({ action: 'nothing', reason: 'below_threshold' }),
  CreateTarget: () => payload({ mount_target_id: 'fsmt-1', outcome: 'created', created_at: 7 }),
  PollAvailable: (_, times) => payload({ mount_target_id: 'fsmt-1', state: 'available', available: times > 1 }),
  PublishSsm: () => payload({ version: 3, fingerprint: 'abc', changed: true, mount_targets: [] }),
  Redeploy: () => payload({ outcome: 'started', version: 3, deployment_id: null, warnings: [] }),
};
const scenario = (name: string, answers: Answers, input: unknown = {}): Scenario => ({
  name,
  input,
  answers: { ...usual, ...answers },
});
/** Each code once, then what is usual. */
const once = (error: string, otherwise: Answer) => (_: unknown, times: number) => (times === 1 ? { error } : otherwise);

export const SCENARIOS: Scenario[] = [
  scenario('nothing to do', {}, { Comment: 'a person' }),
  scenario('the first execution', { Evaluate: () => publish }),
  scenario('a redeployment', { Evaluate: () => decided({ action: 'redeploy', version: 2, fingerprint: 'def' }) }),
  scenario('a new target', { Evaluate: () => create }),
  scenario('a target of somebody else', { Evaluate: () => decided({ action: 'adopt', mount_target_id: 'fsmt-9' }) }),
  scenario('a target that takes too long', {
    Evaluate: () => create,
    PollAvailable: () => payload({ mount_target_id: 'fsmt-1', state: 'creating', available: false }),
  }),
  scenario('no target', { Evaluate: () => decided({ action: 'no_available_targets' }) }),
  scenario('a subnet that is refused', { Evaluate: () => create, CreateTarget: once('SubnetRefused', refused) }),
  scenario('a zone that is refused', { Evaluate: () => create, CreateTarget: once('ZoneRefused', refused) }),
  scenario('a count in parts', {
    Count: () => counted(1, [{ a: 1 }, { b: 2 }]),
    CountPartition: (_, times) => (times === 2 ? { error: 'Lambda.Unknown' } : counted(2)),
  }),
  scenario('a Map that fails', {
    Count: () => counted(1, [{ a: 1 }]),
    CountPartitions: () => ({ error: 'States.DataLimitExceeded' }),
  }),
  scenario('an input that is wrong', { Count: () => ({ error: 'InvalidInput', cause: '`threshold` is -1' }) }),
  scenario('an input that is wrong, to Evaluate', { Evaluate: () => ({ error: 'InvalidInput' }) }),
  scenario('a count that fails', { Count: () => ({ error: 'TargetDirectoryUnreadable' }) }),
  scenario('Count fails after all tries', { Count: () => ({ error: 'Lambda.TooManyRequestsException' }) }),
  scenario('the parts of a count fail', {
    Count: () => counted(1, [{ a: 1 }]),
    CountPartitions: () => ({ error: 'States.Timeout' }),
  }),
  scenario('Evaluate fails', { Evaluate: () => refused }),
  scenario('PollAvailable fails', { Evaluate: () => create, PollAvailable: () => refused }),
  scenario('PublishSsm fails', { Evaluate: () => publish, PublishSsm: () => refused }),
  scenario('Redeploy fails', { Evaluate: () => publish, Redeploy: () => refused }),
];
