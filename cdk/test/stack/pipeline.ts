import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
// @ts-expect-error: it comes without types
import aslValidator from 'asl-validator';
import { definition, FUNCTIONS, PROJECT, lambdaSizing, stateOf, type FunctionName } from '../../lib/functions.ts';
import { world, type World } from '../world.ts';

const of = (it: World, name: FunctionName) => it.at(`Pipeline/${stateOf(name)}`);
const each = <T>(it: World, what: (is: any) => T) =>
  Object.fromEntries(FUNCTIONS.map((name) => [name, what(of(it, name))]));
const machine = JSON.parse(definition());
const map = machine.States.CountPartitions;

test('six functions from binaries that are built, on arm64 or, by choice, on x86-64', () => {
  for (const [name, architecture, prefix] of [
    ['default', 'arm64', ''],
    ['spot', 'x86_64', 'files-'],
  ] as const) {
    const it = world(name);
    const expected = (folder: string) => [
      `${prefix}${folder}`,
      'provided.al2023',
      [architecture],
      'bootstrap',
      'Active',
    ];
    assert.deepEqual(
      each(it, (is) => [is.FunctionName, is.Runtime, is.Architectures, is.Handler, is.TracingConfig.Mode]),
      Object.fromEntries(FUNCTIONS.map((folder) => [folder, expected(folder)])),
    );
  }
});

test("memory by scale is the original design's table; time is what each Cargo.toml says, for cargo lambda deploy too", () => {
  const memory = (name: Parameters<typeof world>[0]) => of(world(name), 'count').MemorySize;
  assert.deepEqual([memory('discovery'), memory('default'), memory('spot')], [512, 1024, 2048]);
  for (const name of FUNCTIONS) {
    const { Timeout, MemorySize } = of(world('default'), name);
    assert.deepEqual({ timeout: Timeout, memory: MemorySize }, lambdaSizing(name), name);
  }
});

test('count has as many places as the Map asks for at once, and the others none of their own', () => {
  assert.equal(map.MaxConcurrency, 8);
  const reserved = each(world('later'), (is) => is.ReservedConcurrentExecutions);
  assert.deepEqual(reserved, { ...each(world('later'), () => undefined), count: map.MaxConcurrency });
  assert.equal(of(world('default'), 'count').ReservedConcurrentExecutions, undefined, 'a new account has too few');
});

test('logs are kept for a week, each in a group of its own', () => {
  const it = world('default');
  for (const name of FUNCTIONS) {
    assert.equal(it.text(of(it, name).LoggingConfig.LogGroup), `<Pipeline/${stateOf(name)}Log>`);
    assert.equal(it.at(`Pipeline/${stateOf(name)}Log`).LogGroupName, `/aws/lambda/${name}`);
  }
  assert.equal(it.all('Logs::LogGroup').length, 10, 'and of machine, service, flows and the maker of the certificate');
  for (const { is, path } of it.all('Logs::LogGroup')) assert.equal(is.RetentionInDays, 7, path);
  for (const { is, path } of world('spot').all('Logs::LogGroup')) assert.equal(is.RetentionInDays, 30, path);
});

test('count has the file system at /mnt/data, read-only and as root, where there is a mount target', () => {
  const subnets = (it: World) => of(it, 'count').VpcConfig.SubnetIds.map((subnet: unknown) => it.text(subnet));
  const it = world('default');
  const { FileSystemConfigs, VpcConfig, Environment } = of(it, 'count');
  assert.deepEqual(
    FileSystemConfigs.map((mount: any) => [mount.LocalMountPath, it.text(mount.Arn)]),
    [
      [
        '/mnt/data',
        'arn:<AWS::Partition>:elasticfilesystem:<AWS::Region>:<AWS::AccountId>:access-point/<Storage/Counting>',
      ],
    ],
  );
  assert.equal(Environment.Variables.TARGET_DIRECTORY, '/mnt/data');
  assert.deepEqual(
    VpcConfig.SecurityGroupIds.map((group: unknown) => it.text(group)),
    ['<Network/Functions.GroupId>'],
  );
  assert.deepEqual(subnets(it), ['<Network/Vpc/PrivateSubnet1/Subnet>', '<Network/Vpc/PrivateSubnet2/Subnet>']);
  assert.deepEqual(subnets(world('existing')), ['subnet-00000000', 'subnet-00000002']);
  assert.deepEqual(subnets(world('restored')), subnets(world('default')));
  const policies = it.all('IAM::Policy').filter(({ path }) => path === 'Roles/Count/DefaultPolicy');
  assert.equal(policies.length, 1);
  assert.doesNotMatch(JSON.stringify(policies), /ClientWrite/);
  for (const name of FUNCTIONS.filter((name) => name !== 'count')) {
    assert.equal(of(it, name).FileSystemConfigs, undefined, name);
    assert.equal(of(it, name).VpcConfig, undefined, name);
  }
});

test('all functions are in the VPC, by choice', () => {
  const it = world('inVpc');
  assert.deepEqual(
    each(it, (is) => is.VpcConfig.SubnetIds.length),
    { ...each(it, () => 3), count: 2 },
  );
});

test('each function has the variables that it reads, with what the settings say', () => {
  const it = world('spot');
  const variables = each(it, (is) =>
    Object.fromEntries(Object.entries(is.Environment.Variables).map(([name, value]) => [name, it.text(value)])),
  );
  const EFS_FILE_SYSTEM_ID = '<Storage/FileSystem>';
  const SSM_PARAMETER_NAME = '/efs-mount-autoscaling/mount-targets';
  // Names, not references: nothing waits for a service that may never get stable.
  const service = {
    ECS_CLUSTER_NAME: 'efs-mount-autoscaling-cluster',
    ECS_SERVICE_NAME: 'efs-mount-autoscaling-fargate-spot',
  };
  assert.deepEqual(
    [it.at('Service/Cluster').ClusterName, it.at('Service/FileService/Service').ServiceName],
    Object.values(service),
  );
  const REDEPLOY = 'on-change';
  assert.deepEqual(variables, {
    count: { EFS_FILE_SYSTEM_ID, SSM_PARAMETER_NAME, TARGET_DIRECTORY: '/mnt/data' },
    evaluate: {
      EFS_FILE_SYSTEM_ID,
      SSM_PARAMETER_NAME,
      ...service,
      VPC_ID: '<Network/Vpc>',
      SUBNET_IDS: [1, 2, 3, 4].map((zone) => `<Network/Vpc/PrivateSubnet${zone}/Subnet>`).join(','),
      FILE_COUNT_THRESHOLD: '5000',
      SCALING_RULE: 'per-target',
      INITIAL_MOUNT_TARGETS: '3',
      COOLDOWN_SECONDS: '600',
      MIN_MOUNT_TARGETS: '3',
      MAX_MOUNT_TARGETS: '4',
      REDEPLOY,
    },
    'create-target': { EFS_FILE_SYSTEM_ID, SSM_PARAMETER_NAME, SECURITY_GROUP_IDS: '<Network/Targets.GroupId>' },
    'poll-available': { EFS_FILE_SYSTEM_ID },
    'publish-ssm': { EFS_FILE_SYSTEM_ID, SSM_PARAMETER_NAME, SSM_PARAMETER_TYPE: 'SecureString' },
    redeploy: { EFS_FILE_SYSTEM_ID, SSM_PARAMETER_NAME, ...service, REDEPLOY },
  });
  for (const path of ['Pipeline/Evaluate', 'Pipeline/Redeploy']) {
    const found = it.resources.find((resource) => resource.path === path);
    assert(!JSON.stringify([found?.is, found?.dependsOn]).includes('FileService'), `${path} waits for the service`);
  }
  for (const name of ['evaluate', 'redeploy'] as const) {
    assert.equal(of(world('later'), name).Environment.Variables.REDEPLOY, 'never');
  }
  assert.equal(of(world('adopted'), 'create-target').Environment.Variables.IP_ADDRESS_TYPE, 'DUAL_STACK');
  const read = ['crates/domain/src/config.rs', 'functions/count/src/handler.rs']
    .map((file) => readFileSync(join(PROJECT, file), 'utf8'))
    .join('\n');
  const given = [...Object.values(variables), of(world('inVpc'), 'count').Environment.Variables].flatMap((each) =>
    Object.keys(each),
  );
  for (const name of given) assert(read.includes(`"${name}"`), `nothing reads ${name}`);
  assert.equal(of(world('inVpc'), 'count').Environment.Variables.COUNT_CACHE_SECONDS, '600');
  const { ECS_CLUSTER_NAME, ECS_SERVICE_NAME } = of(world('existing'), 'redeploy').Environment.Variables;
  assert.deepEqual([ECS_CLUSTER_NAME, ECS_SERVICE_NAME], ['theirs', 'files']);
});

/** The names in `${…}` of the machine's file. */
const asked = new Set([...definition().matchAll(/\$\{(\w+)\}/g)].map((found) => found[1]));

test('every substitution of the machine is given, and none that it does not know', () => {
  for (const name of ['default', 'discovery', 'existing'] as const) {
    const { DefinitionSubstitutions } = world(name).one('StepFunctions::StateMachine');
    assert.deepEqual(new Set(Object.keys(DefinitionSubstitutions)), asked);
  }
  const it = world('discovery');
  const given = it.one('StepFunctions::StateMachine').DefinitionSubstitutions;
  for (const name of FUNCTIONS)
    assert.equal(it.text(given[`${stateOf(name)}Function`]), `<Pipeline/${stateOf(name)}.Arn>`);
  assert.deepEqual([given.PollIntervalSeconds, given.PollTimeoutSeconds], ['5', '600']);
});

test("the machine is the file's, is right by AWS's rules once it is filled in, and is logged and traced", () => {
  const it = world('default');
  const {
    DefinitionString,
    DefinitionSubstitutions,
    StateMachineType,
    TracingConfiguration,
    LoggingConfiguration,
    RoleArn,
  } = it.one('StepFunctions::StateMachine');
  assert.deepEqual(JSON.parse(DefinitionString), machine);
  const filled = DefinitionString.replace(/\$\{(\w+)\}/g, (_: string, name: string) => {
    const value = DefinitionSubstitutions[name];
    return typeof value === 'string' ? value : `arn:aws:lambda:ap-northeast-1:123456789012:function:${name}`;
  });
  const { isValid, errorsText } = aslValidator(JSON.parse(filled));
  assert(isValid, isValid || errorsText('\n'));
  assert.deepEqual([StateMachineType, TracingConfiguration], ['STANDARD', { Enabled: true }]);
  assert.deepEqual([LoggingConfiguration.Level, LoggingConfiguration.IncludeExecutionData], ['ALL', true]);
  const [{ CloudWatchLogsLogGroup }] = LoggingConfiguration.Destinations;
  assert.equal(it.text(CloudWatchLogsLogGroup.LogGroupArn), '<Pipeline/MachineLog.Arn>');
  // Vended logs elsewhere count against the ten resource policies of an account.
  assert.match(it.at('Pipeline/MachineLog').LogGroupName, /^\/aws\/vendedlogs\//);
  assert.equal(it.text(RoleArn), '<Pipeline/MachineRole.Arn>');
});

test('the schedule starts it every five minutes, or as it is told, or not at all; what it cannot start is kept', () => {
  const of = (name: Parameters<typeof world>[0]) => {
    const { ScheduleExpression, State } = world(name).one('Scheduler::Schedule');
    return [ScheduleExpression, State];
  };
  assert.deepEqual(of('default'), ['rate(5 minutes)', 'ENABLED']);
  assert.deepEqual(of('spot'), ['rate(2 hours)', 'DISABLED']);
  assert.deepEqual(of('discovery'), ['cron(0 * * * ? *)', 'ENABLED']);
  const it = world('default');
  const { Target } = it.one('Scheduler::Schedule');
  assert.deepEqual([it.text(Target.Arn), Target.Input], ['<Pipeline/Machine>', '{}']);
  assert.equal(it.text(Target.DeadLetterConfig.Arn), '<Pipeline/NotStarted.Arn>');
  // A schedule whose role may not start anything yet fills the queue.
  const schedule = it.resources.find(({ path }) => path === 'Pipeline/Schedule');
  assert.deepEqual(schedule?.dependsOn, ['Pipeline/ScheduleRole/DefaultPolicy', 'Pipeline/ScheduleRole']);
  assert.equal(it.at('Pipeline/NotStarted').SqsManagedSseEnabled, true);
});

/** All Task states, with the function that each invokes. */
function tasks(states: Record<string, any>): { state: string; name: FunctionName; seconds: number }[] {
  return Object.entries(states).flatMap(([state, is]) => {
    if (is.Type === 'Map') return tasks(is.ItemProcessor.States);
    if (is.Type !== 'Task') return [];
    const name = FUNCTIONS.find((name) => is.Arguments.FunctionName === `\${${stateOf(name)}Function}`);
    assert(name, `${state} invokes ${is.Arguments.FunctionName}`);
    return [{ state, name, seconds: is.TimeoutSeconds }];
  });
}

test('times hold one another: function < state < machine, and the longest count and wait fit in', () => {
  const it = world('default');
  const all = tasks(machine.States);
  assert.deepEqual([...new Set(all.map(({ name }) => name))].sort(), [...FUNCTIONS].sort());
  for (const { state, name, seconds } of all) {
    assert(of(it, name).Timeout < seconds, `${state}: the function has ${of(it, name).Timeout} s of ${seconds}`);
    assert(seconds < machine.TimeoutSeconds, state);
  }
  const seconds = (state: string) => all.find((task) => task.state === state)!.seconds;
  const [, rounds] = /\$rounds < (\d+)/.exec(machine.States.CountLeft.Choices[0].Condition)!;
  const count = seconds('Count') + Number(rounds) * seconds('CountPartition');
  const act = ['Evaluate', 'CreateTarget', 'PollAvailable', 'PublishSsm', 'Redeploy'].reduce(
    (sum, state) => sum + seconds(state),
    0,
  );
  const longestWait = 1800;
  assert(count + longestWait + act < machine.TimeoutSeconds);
  assert(it.config.pipeline.pollTimeoutSeconds <= longestWait);
});
