import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FUNCTIONS, PROJECT, stateOf } from '../../lib/functions.ts';
import { maxHoursWithoutExecution } from '../../lib/observability.ts';
import { NAMES, world, type World } from '../world.ts';

const alarm = (it: World, id: string) => it.at(`Observability/${id}`);
const condition = (is: any) =>
  `${is.ComparisonOperator.replace(/Than|Or|To|Threshold/g, '')} ${is.Threshold}, ${is.DatapointsToAlarm ?? is.EvaluationPeriods} of ${is.EvaluationPeriods}, else ${is.TreatMissingData}`;
const has = (name: Parameters<typeof world>[0], id: string) =>
  world(name).resources.some(({ path }) => path === `Observability/${id}`);

test("the original design's four alarms", () => {
  const it = world('default');
  for (const name of FUNCTIONS) {
    const is = alarm(it, `${stateOf(name)}Errors`);
    assert.equal(condition(is), 'Greater 10, 2 of 3, else notBreaching');
    assert.equal(
      is.Metrics.find((metric: any) => metric.ReturnData !== false).Expression,
      '100 * errors / invocations',
    );
    const [{ Value }] = is.Metrics[1].MetricStat.Metric.Dimensions;
    assert.equal(it.text(Value), `<Pipeline/${stateOf(name)}>`);
  }
  const limit = alarm(it, 'IoLimit');
  assert.deepEqual(
    [limit.Namespace, limit.MetricName, condition(limit)],
    ['AWS/EFS', 'PercentIOLimit', 'Greater 80, 3 of 3, else notBreaching'],
  );
  const created = alarm(it, 'TargetCreationFailed');
  assert.deepEqual([created.MetricName, it.text(created.Dimensions[0].Value)], ['Errors', '<Pipeline/CreateTarget>']);
  const launched = alarm(it, 'TaskLaunchFailed');
  assert.deepEqual([launched.Namespace, launched.MetricName], ['AWS/Events', 'TriggeredRules']);
  assert.equal(it.text(launched.Dimensions[0].Value), '<Observability/TasksDoNotStart>');
  const rule = it.one('Events::Rule');
  assert.deepEqual(
    rule.EventPattern.resources.map((one: unknown) => it.text(one)),
    [
      'arn:<AWS::Partition>:ecs:<AWS::Region>:<AWS::AccountId>:service/efs-mount-autoscaling-cluster/efs-mount-autoscaling-fargate',
    ],
  );
  assert(rule.EventPattern.detail.eventName.includes('SERVICE_TASK_START_IMPAIRED'));
});

test('and those of executions, the schedule, credits, and a list that is not that of the targets', () => {
  const it = world('default');
  const failed = alarm(it, 'ExecutionFailed');
  assert.deepEqual(
    failed.Metrics.map((metric: any) => metric.MetricStat?.Metric.MetricName ?? metric.Expression),
    [
      'FILL(failed, 0) + FILL(timedOut, 0) + FILL(aborted, 0)',
      'ExecutionsFailed',
      'ExecutionsTimedOut',
      'ExecutionsAborted',
    ],
  );
  const silent = alarm(it, 'ScheduleSilent');
  assert.deepEqual(
    [silent.MetricName, silent.Period, condition(silent)],
    ['ExecutionsStarted', 3600, 'Less 1, 1 of 1, else breaching'],
  );
  assert(!has('spot', 'ScheduleSilent'), 'one that is paused is silent');
  assert.equal(it.text(alarm(it, 'NotStarted').Dimensions[0].Value), '<Pipeline/NotStarted.QueueName>');
  assert(!has('default', 'BurstCreditsLow') && has('discovery', 'BurstCreditsLow'), 'only bursting has credits');
  const differs = alarm(it, 'PublishedDiffers');
  assert.deepEqual([differs.EvaluationPeriods, differs.Metrics[0].Expression], [6, 'ABS(targets - published)']);
});

test('a sum has a value where one of its metrics has none', () => {
  for (const name of NAMES) {
    for (const { path, is } of world(name).all('CloudWatch::Alarm')) {
      const sums = (is.Metrics ?? []).filter(({ Expression }: any) => / \+ /.test(Expression ?? ''));
      for (const { Expression } of sums) {
        const parts = Expression.replace(/^100 \* \(|\) \/ requests$/g, '').split(' + ');
        for (const part of parts) assert.match(part, /^FILL\(\w+, 0\)$/, `${name}, ${path}: ${Expression}`);
      }
    }
  }
});

test('the service and the backups have alarms of their own, where there are any', () => {
  const it = world('default');
  const down = alarm(it, 'TargetDown');
  assert.deepEqual([condition(down), down.Metrics[0].Period], ['Less 1, 5 of 5, else notBreaching', 60]);
  assert.match(
    it.text(down.Metrics[0].Expression),
    /^SELECT MIN\(TargetUp\) .* FileSystemId = '<Storage\/FileSystem>'$/,
  );
  const unhealthy = alarm(it, 'UnhealthyTasks');
  assert.deepEqual(
    [unhealthy.MetricName, condition(unhealthy)],
    ['UnHealthyHostCount', 'GreaterEqual 1, 5 of 5, else notBreaching'],
  );
  const errors = alarm(it, 'ServiceErrors');
  assert.deepEqual(
    errors.Metrics.map((metric: any) => metric.MetricStat?.Metric.MetricName ?? metric.Expression),
    [
      '100 * (FILL(ofTasks, 0) + FILL(ofBalancer, 0)) / requests',
      'HTTPCode_Target_5XX_Count',
      'HTTPCode_ELB_5XX_Count',
      'RequestCount',
    ],
  );
  const backup = alarm(it, 'BackupFailed');
  assert.deepEqual(
    [backup.MetricName, it.text(backup.Dimensions[0].Value)],
    ['NumberOfBackupJobsFailed', '<Storage/Backups.BackupVaultName>'],
  );
  assert(!has('discovery', 'BackupFailed') && !has('discovery', 'ServiceErrors') && has('discovery', 'TargetDown'));
  assert(!has('existing', 'TargetDown'), 'whose metrics these would be is not known');
});

test('a rare schedule is not silent before it is late', () => {
  const hours = [
    'rate(1 minute)',
    'rate(5 minutes)',
    'rate(45 minutes)',
    'rate(2 hours)',
    'rate(1 day)',
    'rate(30 days)',
    'cron(0 * * * ? *)',
  ].map(maxHoursWithoutExecution);
  assert.deepEqual(hours, [1, 1, 2, 4, 48, 168, 168]);
});

test('every alarm is told to a topic that is encrypted, by a key that CloudWatch may use', () => {
  for (const name of NAMES) {
    const it = world(name);
    const alarms = it.all('CloudWatch::Alarm');
    assert(alarms.length >= 11, name);
    for (const { is, path } of alarms) {
      assert.deepEqual(
        [...is.AlarmActions, ...is.OKActions].map((one) => it.text(one)),
        ['<Observability/Topic>', '<Observability/Topic>'],
        path,
      );
      assert(is.AlarmDescription, path);
    }
    assert.equal(it.text(it.one('SNS::Topic').KmsMasterKeyId), '<Observability/Key.Arn>');
    const key = it.at('Observability/Key');
    assert.equal(key.EnableKeyRotation, true);
    assert.equal(it.resources.find(({ path }) => path === 'Observability/Key')?.deletion, 'Delete', 'it keeps nothing');
    const allowed = (service: string) =>
      key.KeyPolicy.Statement.filter((one: any) => one.Principal.Service === service);
    const [cloudwatch, ...others] = allowed('cloudwatch.amazonaws.com');
    assert.deepEqual([cloudwatch.Action, others], [['kms:Decrypt', 'kms:GenerateDataKey*'], []]);
    assert.equal(it.text(cloudwatch.Condition.StringEquals['aws:SourceAccount']), '<AWS::AccountId>');
    assert.equal(allowed('events.amazonaws.com').length, it.all('Events::Rule').length);
    const publish = it.one('SNS::TopicPolicy').PolicyDocument.Statement;
    assert(publish.some((one: any) => one.Effect === 'Deny' && one.Condition.Bool['aws:SecureTransport'] === 'false'));
  }
  const { Protocol, Endpoint } = world('spot').one('SNS::Subscription');
  assert.deepEqual([Protocol, Endpoint], ['email', 'operations@example.com']);
});

/** Name → the second dimension, if it has one: what the code emits, by the tables of `crates/domain/src/metric.rs`. */
function emitted(): Map<string, string | undefined> {
  const source = readFileSync(join(PROJECT, 'crates/domain/src/metric.rs'), 'utf8');
  const found = new Map<string, string | undefined>();
  for (const [, table, body = ''] of source.matchAll(/^table! \{\s+(\w+):\n(.*?)^\}/gms)) {
    for (const [, name = ''] of body.matchAll(/^\s+[A-Z_]+ = "(\w+)", \w+;$/gm)) {
      found.set(name, table === 'SERVICE_TABLE' ? 'MountTargetId' : name === 'Decision' ? 'Reason' : undefined);
    }
  }
  assert(found.size >= 17 && found.get('TargetUp') === 'MountTargetId' && found.has('FileCount'));
  assert.match(source, /NAMESPACE: &str = "EfsMountAutoscaling"/);
  return found;
}

/** The system's own metrics that alarms and the dashboard look at, each as `name{dimensions}`. */
function watched(it: World): string[] {
  const found: string[] = [];
  for (const { is } of it.all('CloudWatch::Alarm')) {
    for (const metric of [is, ...(is.Metrics ?? []).map((one: any) => one.MetricStat?.Metric ?? {})]) {
      if (metric.Namespace !== 'EfsMountAutoscaling') continue;
      found.push(`${metric.MetricName}{${metric.Dimensions.map((one: any) => one.Name).join(',')}}`);
    }
  }
  for (const widget of board(it)) {
    // A metric names its fields only where they are not those of the one before it.
    let before: unknown[] = [];
    for (const metric of widget.properties.metrics ?? []) {
      const options = metric.at(-1);
      const search =
        options?.expression && /SEARCH\('\{EfsMountAutoscaling,([\w,]+)\} MetricName="(\w+)"/.exec(options.expression);
      if (search) found.push(`${search[2]}{${search[1]}}`);
      if (options?.expression) continue;
      const fields = metric
        .filter((one: unknown) => typeof one === 'string')
        .map((one: string, index: number) => (one === '.' ? before[index] : one));
      const whole = fields[0] === '...' ? before : fields;
      before = whole;
      if (whole[0] === 'EfsMountAutoscaling')
        found.push(
          `${whole[1]}{${whole.filter((_: unknown, index: number) => index >= 2 && index % 2 === 0).join(',')}}`,
        );
    }
  }
  return found;
}

const board = (it: World): any[] => JSON.parse(it.text(it.one('CloudWatch::Dashboard').DashboardBody)).widgets;

test('only metrics that the code emits are looked at, with the dimensions that they have', () => {
  const code = emitted();
  const known = [...code].map(
    ([name, second]) => `${name}{${['FileSystemId', ...(second ? [second] : [])].join(',')}}`,
  );
  for (const name of NAMES) {
    const names = watched(world(name));
    assert(names.length >= 16, `${name}: ${names.join(' ')}`);
    for (const metric of names) assert(known.includes(metric), `${name} looks at ${metric}, which nothing emits`);
  }
  assert(!known.includes('FileCount{FileSystemId,Reason}') && !known.includes('Files{FileSystemId}'));
});

test('the dashboard shows files against the threshold, targets, executions, states, EFS, and the service by target', () => {
  const shown = JSON.stringify(board(world('default')));
  const parts = [
    'FileCount',
    'Threshold',
    'Targets',
    'Published',
    'ExecutionsSucceeded',
    'ExecutionsFailed',
    'Duration',
    'DataReadIOBytes',
    'DataWriteIOBytes',
    'PercentIOLimit',
  ];
  const targetMetric = [
    'TargetBytesRead',
    'TargetBytesWritten',
    'TargetLatency',
    'TargetUp',
    'TargetOperations',
    'TargetFailures',
    'CPUUtilization',
    'MemoryUtilization',
  ];
  for (const name of [...parts, ...targetMetric]) assert(shown.includes(name), name);
  for (const name of FUNCTIONS) assert(shown.includes(`<Pipeline/${stateOf(name)}>`), name);
});

test('a trail of what is changed, by choice', () => {
  assert.equal(world('default').all('CloudTrail::Trail').length, 0);
  const it = world('spot');
  const trail = it.one('CloudTrail::Trail');
  assert.equal(trail.IsLogging, true);
  assert.equal(trail.EnableLogFileValidation, true);
  assert.deepEqual(
    trail.EventSelectors,
    [{ IncludeManagementEvents: true, ReadWriteType: 'WriteOnly' }],
    'the four calls of the original design are such',
  );
  const bucket = it.one('S3::Bucket');
  assert.equal(bucket.PublicAccessBlockConfiguration.RestrictPublicBuckets, true);
  assert.equal(it.all('S3::Bucket')[0]?.deletion, 'Retain');
});
