/**
 * `make probe`: asks the mount targets of a deployed system what they do, from where the service runs: as a task of its own
 * image, in its network, with its role. The report is what the task has said in its log. By the AWS CLI, so that whatever
 * signs in there signs in here.
 */
import { spawnSync } from 'node:child_process';
import { setTimeout } from 'node:timers/promises';

const HELP = `usage: make probe [NAME=the stack's] [ARGS="--iam --connections 16"]

Runs \`file-service probe\` on all mount targets of the system as a task of its image, with the network, the security group and the
role of the service, and prints the report from the task's log. ARGS are options of the probe; \`file-service probe --help\` has
them. It needs the AWS CLI and: cloudformation:DescribeStacks, elasticfilesystem:DescribeMountTargets, ecs:RunTask,
ecs:DescribeTasks, ecs:StopTask, iam:PassRole, logs:GetLogEvents. It costs less than a cent.

Exit status: that of the probe (0: all that the service needs is there; 1: something is missing; 2: nothing was reached), or 3
when it could not be run.`;

const FAILED = 3;
/** An image is pulled, and a probe asks for some minutes at most. */
const TIMEOUT_MS = 15 * 60_000;
const PAUSE_MS = Number(process.env['PROBE_PAUSE_MS'] ?? 5000);
const CONTAINER = 'file-service';

type Json = any;

function aws(...words: string[]): Json {
  const program = process.env['AWS_CLI'] ?? 'aws';
  const asked = spawnSync(program, [...words, '--output', 'json'], {
    encoding: 'utf8',
    timeout: 60_000,
    maxBuffer: 1 << 26,
  });
  if (asked.error) throw new Error(`${program}: ${asked.error.message}; it is the AWS CLI, version 2`);
  if (asked.status !== 0)
    throw new Error(asked.stderr.trim() || `${words.slice(0, 2).join(' ')} ended with ${asked.status}`);
  return asked.stdout.trim() === '' ? {} : JSON.parse(asked.stdout);
}

/** What the stack says of itself. */
function outputs(stack: string): Record<string, string> {
  const { Stacks } = aws('cloudformation', 'describe-stacks', '--stack-name', stack);
  const said = Object.fromEntries(
    Stacks[0].Outputs.map(({ OutputKey, OutputValue }: Json) => [OutputKey, OutputValue]),
  );
  for (const name of ['ClusterName', 'TaskDefinition', 'TasksSecurityGroupId', 'SubnetIds', 'FileSystemId']) {
    if (!said[name])
      throw new Error(
        `the stack ${stack} has no output ${name}: it has no service of its own, or is of an earlier version`,
      );
  }
  return said;
}

/** The addresses of all mount targets that are available. */
export function addresses(targets: Json): string[] {
  const available = targets.MountTargets.filter(({ LifeCycleState }: Json) => LifeCycleState === 'available');
  return available
    .map(({ IpAddress, Ipv6Address }: Json) => IpAddress ?? Ipv6Address)
    .filter(Boolean)
    .sort();
}

/** The whole log of a task, which has pages. */
function log(group: string, stream: string): string[] {
  const lines: string[] = [];
  let token: string | undefined;
  for (;;) {
    const page = aws(
      'logs',
      'get-log-events',
      '--log-group-name',
      group,
      '--log-stream-name',
      stream,
      '--start-from-head',
      ...(token ? ['--next-token', token] : []),
    );
    lines.push(...page.events.map(({ message }: Json) => message));
    if (page.nextForwardToken === token) return lines;
    token = page.nextForwardToken;
  }
}

async function run(stack: string, more: string[]): Promise<number> {
  const out = outputs(stack);
  const hosts = addresses(aws('efs', 'describe-mount-targets', '--file-system-id', String(out['FileSystemId'])));
  if (hosts.length === 0) throw new Error(`no mount target of ${out['FileSystemId']} is available`);
  const region = String(out['TaskDefinition']).split(':')[3] ?? '';
  const access = out['AccessPointId'] ? ['--access-point', out['AccessPointId']] : [];
  const command = [
    'probe',
    ...hosts,
    '--file-system',
    String(out['FileSystemId']),
    '--region',
    region,
    ...access,
    ...more,
  ];
  const network = {
    awsvpcConfiguration: {
      subnets: String(out['SubnetIds']).split(','),
      securityGroups: [out['TasksSecurityGroupId']],
      assignPublicIp: 'DISABLED',
    },
  };
  const provider = out['CapacityProvider'];
  console.error(`probe: ${command.join(' ')}`);
  const started = aws(
    'ecs',
    'run-task',
    '--cluster',
    String(out['ClusterName']),
    '--task-definition',
    String(out['TaskDefinition']),
    ...(provider
      ? ['--capacity-provider-strategy', `capacityProvider=${provider},weight=1`]
      : ['--launch-type', 'FARGATE']),
    '--network-configuration',
    JSON.stringify(network),
    '--overrides',
    JSON.stringify({ containerOverrides: [{ name: CONTAINER, command }] }),
  );
  const [task] = started.tasks;
  if (!task) throw new Error(`ECS starts no task: ${JSON.stringify(started.failures)}`);
  const ecs = ['--cluster', String(out['ClusterName'])];
  const until = Date.now() + TIMEOUT_MS;
  let last = '';
  for (;;) {
    const [now] = aws('ecs', 'describe-tasks', ...ecs, '--tasks', task.taskArn).tasks;
    if (now.lastStatus !== last) console.error(`probe: the task is ${(last = now.lastStatus)}`);
    if (now.lastStatus === 'STOPPED') {
      const id = String(task.taskArn).split('/').at(-1);
      const container = now.containers.find(({ name }: Json) => name === CONTAINER);
      if (container?.exitCode === undefined) throw new Error(`the task did not run: ${now.stoppedReason}`);
      for (const line of log(`/ecs/${stack}`, `${CONTAINER}/${CONTAINER}/${id}`)) console.log(line);
      return container.exitCode;
    }
    if (Date.now() > until) {
      aws('ecs', 'stop-task', ...ecs, '--task', task.taskArn);
      throw new Error(`the task is still ${now.lastStatus} after ${TIMEOUT_MS / 60_000} minutes, and was stopped`);
    }
    await setTimeout(PAUSE_MS);
  }
}

if (import.meta.filename === process.argv[1]) {
  const [stack = '', ...more] = process.argv.slice(2);
  if (stack === '' || stack === '--help') {
    console.log(HELP);
  } else {
    try {
      process.exitCode = await run(
        stack,
        more.filter((word) => word !== ''),
      );
    } catch (failed) {
      console.error(`probe: ${(failed as Error).message}`);
      process.exitCode = FAILED;
    }
  }
}
