/** `make probe` without an account: against what the AWS CLI says, in the form that AWS documents. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { addresses } from '../bin/probe.ts';
import { temporary } from './world.ts';

const OUTPUTS = {
  ClusterName: 'files-cluster',
  TaskDefinition: 'arn:aws:ecs:eu-west-1:123456789012:task-definition/files:7',
  TasksSecurityGroupId: 'sg-1',
  SubnetIds: 'subnet-1,subnet-2',
  FileSystemId: 'fs-1',
  AccessPointId: 'fsap-1',
};

/** An AWS CLI that answers each command with the next of these; an answer that is a text is an error. */
function cli(answers: Record<string, unknown[]>, more: string[] = []) {
  const folder = temporary();
  const program = join(folder, 'aws');
  const calls = join(folder, 'calls');
  writeFileSync(join(folder, 'answers'), JSON.stringify(answers));
  writeFileSync(calls, '');
  writeFileSync(
    program,
    `#!${process.execPath}
const fs = require('fs');
const words = process.argv.slice(2);
fs.appendFileSync(${JSON.stringify(calls)}, JSON.stringify(words) + '\\n');
const answers = JSON.parse(fs.readFileSync(${JSON.stringify(join(folder, 'answers'))}));
const name = words[1];
const before = fs.readFileSync(${JSON.stringify(calls)}, 'utf8').split('\\n').filter((line) => line.includes('"' + name + '"')).length;
const all = answers[name] ?? ['no answer of ' + name];
const answer = all[Math.min(before, all.length) - 1];
if (typeof answer === 'string') { console.error(answer); process.exit(254); }
console.log(JSON.stringify(answer));
`,
  );
  chmodSync(program, 0o755);
  const ran = spawnSync(
    join(import.meta.dirname, '../node_modules/.bin/tsx'),
    [join(import.meta.dirname, '../bin/probe.ts'), 'files', ...more],
    {
      env: { PATH: process.env['PATH'], AWS_CLI: program, PROBE_PAUSE_MS: '1' },
      encoding: 'utf8',
    },
  );
  const called = readFileSync(calls, 'utf8')
    .trim()
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as string[]);
  return { ...ran, called };
}

const stacks = (outputs: Record<string, string> = OUTPUTS) => ({
  Stacks: [{ Outputs: Object.entries(outputs).map(([OutputKey, OutputValue]) => ({ OutputKey, OutputValue })) }],
});
const TARGETS = {
  MountTargets: [
    { IpAddress: '10.0.2.5', LifeCycleState: 'available' },
    { IpAddress: '10.0.1.5', LifeCycleState: 'available' },
    { IpAddress: '10.0.3.5', LifeCycleState: 'creating' },
  ],
};
const task = (lastStatus: string, exitCode?: number) => ({
  tasks: [
    {
      lastStatus,
      stoppedReason: 'Essential container in task exited',
      containers: [{ name: 'file-service', exitCode }],
    },
  ],
});
const good = (exitCode: number) => ({
  'describe-stacks': [stacks()],
  'describe-mount-targets': [TARGETS],
  'run-task': [{ tasks: [{ taskArn: 'arn:aws:ecs:eu-west-1:123456789012:task/files-cluster/0123' }], failures: [] }],
  'describe-tasks': [task('PENDING'), task('RUNNING'), task('STOPPED', exitCode)],
  'get-log-events': [
    { events: [{ message: 'efs-autoscale probe 0.1.0' }], nextForwardToken: 'a' },
    { events: [{ message: 'All that the service needs is there.' }], nextForwardToken: 'b' },
    { events: [], nextForwardToken: 'b' },
  ],
});

test('the report of the task comes out, and its status', () => {
  for (const status of [0, 1]) {
    const { status: ended, stdout, called } = cli(good(status), ['--iam']);
    assert.equal(ended, status);
    assert.equal(stdout, 'efs-autoscale probe 0.1.0\nAll that the service needs is there.\n');
    const started = called.find(([, name]) => name === 'run-task') ?? [];
    const option = (name: string) => started[started.indexOf(name) + 1] ?? '';
    assert.deepEqual(JSON.parse(option('--overrides')).containerOverrides, [
      {
        name: 'file-service',
        command: [
          'probe',
          '10.0.1.5',
          '10.0.2.5',
          '--file-system',
          'fs-1',
          '--region',
          'eu-west-1',
          '--access-point',
          'fsap-1',
          '--iam',
        ],
      },
    ]);
    const { awsvpcConfiguration } = JSON.parse(option('--network-configuration'));
    assert.deepEqual(awsvpcConfiguration, {
      subnets: ['subnet-1', 'subnet-2'],
      securityGroups: ['sg-1'],
      assignPublicIp: 'DISABLED',
    });
    assert.deepEqual([option('--cluster'), option('--task-definition')], [OUTPUTS.ClusterName, OUTPUTS.TaskDefinition]);
    const read = called.filter(([, name]) => name === 'get-log-events');
    assert.equal(read.length, 3);
    assert(read[0]?.includes('/ecs/files') && read[0].includes('file-service/file-service/0123'));
  }
});

test('what keeps it from running is said, and ends with 3', () => {
  const cases: [Record<string, unknown[]>, RegExp][] = [
    [
      { ...good(0), 'describe-stacks': ['Stack with id files does not exist'] },
      /^probe: Stack with id files does not exist$/m,
    ],
    [{ ...good(0), 'describe-stacks': [stacks({ FileSystemId: 'fs-1' })] }, /has no output ClusterName/],
    [{ ...good(0), 'describe-mount-targets': [{ MountTargets: [] }] }, /no mount target of fs-1 is available/],
    [
      { ...good(0), 'run-task': [{ tasks: [], failures: [{ reason: 'RESOURCE:ENI' }] }] },
      /ECS starts no task: .*RESOURCE:ENI/,
    ],
    [
      {
        ...good(0),
        'describe-tasks': [
          {
            tasks: [
              {
                lastStatus: 'STOPPED',
                stoppedReason: 'CannotPullContainerError',
                containers: [{ name: 'file-service' }],
              },
            ],
          },
        ],
      },
      /the task did not run: CannotPullContainerError/,
    ],
  ];
  for (const [answers, expected] of cases) {
    const { status, stderr } = cli(answers);
    assert.equal(status, 3, stderr);
    assert.match(stderr, expected);
  }
});

test('targets are asked by IPv4 where they have it', () => {
  const targets = [
    { IpAddress: '10.0.1.5', Ipv6Address: '2001:db8::1', LifeCycleState: 'available' },
    { Ipv6Address: '2001:db8::2', LifeCycleState: 'available' },
    { LifeCycleState: 'available' },
  ];
  assert.deepEqual(addresses({ MountTargets: targets }), ['10.0.1.5', '2001:db8::2']);
});

test('a task runs where those of the service run', () => {
  const words = (outputs: Record<string, string>) => {
    const { called } = cli({ ...good(0), 'describe-stacks': [stacks(outputs)] });
    return (called.find(([, name]) => name === 'run-task') ?? []).join(' ');
  };
  assert.match(words(OUTPUTS), / --launch-type FARGATE /);
  const managed = words({ ...OUTPUTS, CapacityProvider: 'theirs' });
  assert.match(managed, / --capacity-provider-strategy capacityProvider=theirs,weight=1 /);
  assert.doesNotMatch(managed, /--launch-type/);
});
