/** What each role may do, compared with what the code calls: the Rust sources say it, nobody keeps a list. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Validations } from 'aws-cdk-lib';
import { FUNCTIONS, PROJECT, stateOf, type FunctionName } from '../../lib/functions.ts';
import { ACTIONS_WITHOUT_RESOURCE, INDIRECT_ACTIONS, wildcards } from '../../lib/permissions.ts';
import { NAMES, world, type Name, type World } from '../world.ts';

/** The file system, to the system. */
const FILES = 'arn:<AWS::Partition>:elasticfilesystem:<AWS::Region>:<AWS::AccountId>:file-system/<Storage/FileSystem>';

// The code.

/** All Rust files below, without their comments. */
function rust(...folders: string[]): string {
  const files = folders.flatMap((folder) =>
    readdirSync(join(PROJECT, folder), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.rs'))
      .map((file) => readFileSync(join(PROJECT, folder, file), 'utf8')),
  );
  return files.map((text) => text.replace(/^\s*\/\/.*$/gm, '')).join('\n');
}

const SERVICES: Record<string, string> = { efs: 'elasticfilesystem', ec2: 'ec2', ssm: 'ssm', ecs: 'ecs' };

/** The calls in a piece of Rust: `self.efs.describe_mount_targets()` is `elasticfilesystem:DescribeMountTargets`. */
function calls(source: string): string[] {
  return [...source.matchAll(/\bself\s*\.\s*(efs|ec2|ssm|ecs)\s*\.\s*(\w+)\(/g)].map(
    ([, client = '', method = '']) => `${SERVICES[client]}:${stateOf(method.replaceAll('_', '-'))}`,
  );
}

/** Port → what its adapter calls. */
function adapters(source: string): Map<string, string[]> {
  const blocks = source.matchAll(/^impl (\w+) for Aws \{\n(.*?)^\}/gms);
  return new Map([...blocks].map(([, port = '', body = '']) => [port, calls(body)]));
}

/** The ports that a handler's signature names. */
function portsOf(name: string, handler: string): string[] {
  const [, ports] = /^pub async fn handle\(\s*ports: (?:Option<)?&\(?impl ([\w\s+]+)\)?>?,/m.exec(handler) ?? [];
  assert(ports, `functions/${name}/src/handler.rs: the signature of \`handle\` is not as this test reads it`);
  return ports.split('+').map((port) => port.trim());
}

interface Code {
  readonly adapters: string;
  readonly ports: string;
  readonly handlers: Record<FunctionName, string>;
  readonly service: string;
}

/** What the service is made of. */
const SERVICE = [
  'crates/router/src',
  'crates/files/src',
  'crates/files-mounted/src',
  'crates/files-nfs/src',
  'crates/file-service/src',
];

const CODE: Code = {
  adapters: rust('crates/aws/src'),
  ports: readFileSync(join(PROJECT, 'crates/domain/src/ports.rs'), 'utf8'),
  handlers: Object.fromEntries(
    FUNCTIONS.map((name) => [name, readFileSync(join(PROJECT, 'functions', name, 'src/handler.rs'), 'utf8')]),
  ) as Record<FunctionName, string>,
  service: rust(...SERVICE),
};

/** What each of them calls, by what the code says. */
function called(code: Code, cached: boolean): Record<FunctionName | 'tasks', Set<string>> {
  const adapter = adapters(code.adapters);
  const of = (ports: string[]) =>
    new Set(
      ports.flatMap((port) => {
        const found = adapter.get(port);
        assert(found, `crates/aws has no adapter of ${port}`);
        return found;
      }),
    );
  const functions = FUNCTIONS.map((name) => {
    // `count` makes clients only for counts that are used again.
    const silent = name === 'count' && !cached;
    return [name, of(silent ? [] : portsOf(name, code.handlers[name]))];
  });
  const methods = [...code.ports.matchAll(/pub trait (\w+) \{.*?async fn (\w+)\(/gs)].map(
    ([, port = '', method = '']) => [port, method] as const,
  );
  const used = methods
    .filter(([, method]) => new RegExp(`\\baws\\s*\\.\\s*${method}\\(`).test(code.service))
    .map(([port]) => port);
  return { ...Object.fromEntries(functions), tasks: of(used) };
}

// The template.

interface Statement {
  readonly effect: string;
  readonly actions: string[];
  readonly resources: string[];
  readonly condition?: any;
}

/** All statements of a role, of its own policies and those that are attached. */
function statements(it: World, role: string): Statement[] {
  const { Policies = [] } = it.at(role);
  const attached = it
    .all('IAM::Policy')
    .filter(({ is }) => is.Roles.some((one: unknown) => it.text(one) === `<${role}>`));
  return [...Policies, ...attached.map(({ is }) => is)].flatMap(({ PolicyDocument }) =>
    PolicyDocument.Statement.map((one: any) => ({
      effect: one.Effect,
      actions: [one.Action].flat(),
      resources: [one.Resource].flat().map((resource) => it.text(resource)),
      condition: one.Condition,
    })),
  );
}

const allowed = (it: World, role: string) =>
  new Set(
    statements(it, role)
      .filter(({ effect }) => effect === 'Allow')
      .flatMap(({ actions }) => actions),
  );

/** What a role lacks, and what it has too much. */
function difference(it: World, calls: ReturnType<typeof called>, implied: typeof INDIRECT_ACTIONS): string[] {
  const found: string[] = [];
  const compare = (who: FunctionName | 'tasks', role: string, more: Record<string, string>[]) => {
    const has = allowed(it, role);
    const reasoned = new Set(more.flatMap((table) => Object.keys(table)));
    for (const action of calls[who]) if (!has.has(action)) found.push(`${who} calls ${action} without a permission`);
    for (const action of reasoned) if (!has.has(action)) found.push(`${who} needs ${action} without a permission`);
    for (const action of has)
      if (!calls[who].has(action) && !reasoned.has(action)) found.push(`${who} may ${action}, and nothing calls it`);
  };
  for (const name of FUNCTIONS) {
    const inVpc = name === 'count' || it.config.pipeline.inVpc;
    compare(name, `Roles/${stateOf(name)}`, [implied.everyFunction, implied[name], inVpc ? implied.inVpc : {}]);
  }
  if (it.resources.some(({ path }) => path === 'Service/Task/TaskRole')) {
    compare('tasks', 'Service/Task/TaskRole', [
      it.config.storage.requireIam ? implied.tasks : {},
      it.config.service.exec ? implied.exec : {},
    ]);
  }
  return found;
}

const compared = (name: Name, code = CODE, implied = INDIRECT_ACTIONS) => {
  const it = world(name);
  return difference(it, called(code, it.config.pipeline.countCacheSeconds > 0), implied);
};

test('every call of the code is in an adapter of a port, and each port says what its adapter calls', () => {
  const adapter = adapters(CODE.adapters);
  assert.equal(
    [...adapter.values()].flat().length,
    calls(CODE.adapters).length,
    'a call outside of the ports belongs to nobody',
  );
  for (const [, doc = '', port = ''] of CODE.ports.matchAll(/^\/\/\/ `(\w+:\w+)`\npub trait (\w+)/gm)) {
    const [service = '', action] = doc.split(':');
    assert.deepEqual(adapter.get(port), [`${SERVICES[service]}:${action}`], port);
  }
  assert(adapter.size >= 9);
  for (const folder of ['functions', ...SERVICE])
    assert.doesNotMatch(rust(folder), /\baws_sdk_/, `${folder} calls AWS only by crates/aws`);
});

test('what the code calls is allowed, and nothing else', () => {
  assert.deepEqual([...called(CODE, false).tasks].sort(), [
    'elasticfilesystem:DescribeMountTargets',
    'ssm:GetParameters',
  ]);
  for (const name of NAMES) assert.deepEqual(compared(name), [], name);
});

test('a call without a permission is found, and a permission without a call', () => {
  const with_ = (change: Partial<Code>): Code => ({ ...CODE, ...change });
  const handler = (name: FunctionName, from: string, to: string) => {
    assert(CODE.handlers[name].includes(from));
    return with_({ handlers: { ...CODE.handlers, [name]: CODE.handlers[name].replace(from, to) } });
  };
  assert.deepEqual(
    compared('default', handler('poll-available', 'Clock + ListTargets', 'Clock + DescribeFileSystem + ListTargets')),
    ['poll-available calls elasticfilesystem:DescribeFileSystems without a permission'],
  );
  assert.deepEqual(compared('default', handler('create-target', ' + DeleteParameter', '')), [
    'create-target may ssm:DeleteParameter, and nothing calls it',
  ]);
  const other = CODE.adapters.replace('.update_service()', '.delete_service()');
  assert.deepEqual(compared('default', with_({ adapters: other })), [
    'redeploy calls ecs:DeleteService without a permission',
    'redeploy may ecs:UpdateService, and nothing calls it',
  ]);
  const service = `${CODE.service}\nself.aws.write_parameter(`;
  assert.deepEqual(compared('default', with_({ service })), ['tasks calls ssm:PutParameter without a permission']);
  const implied = { ...INDIRECT_ACTIONS, 'create-target': {} };
  assert.equal(compared('default', CODE, implied).length, 3, 'what EFS needs');
});

test("the original design's ec2:DeleteNetworkInterface is nobody's own: Lambda has it, and the code is denied it", () => {
  for (const name of ['default', 'inVpc'] as const) {
    const it = world(name);
    for (const folder of FUNCTIONS) {
      const all = statements(it, `Roles/${stateOf(folder)}`);
      if (!all.some(({ actions }) => actions.includes('ec2:DeleteNetworkInterface'))) continue;
      const denied = all.filter(({ effect }) => effect === 'Deny');
      assert.equal(denied.length, 1);
      assert(denied[0]?.actions.includes('ec2:DeleteNetworkInterface'));
      // EFS makes the interface of a target by a call in the name of the code.
      assert.equal(denied[0]?.actions.includes('ec2:CreateNetworkInterface'), folder !== 'create-target', folder);
      assert.match(
        it.text(denied[0]?.condition.ArnEquals['lambda:SourceFunctionArn'][0]),
        new RegExp(`:function:${folder}$`),
      );
    }
  }
});

test('each action is for what it is about', () => {
  const it = world('default');
  const arn = (service: string, resource: string) =>
    `arn:<AWS::Partition>:${service}:<AWS::Region>:<AWS::AccountId>:${resource}`;
  const parameter = (below: string) => arn('ssm', `parameter/efs-mount-autoscaling/mount-targets${below}`);
  const fileSystem = [FILES];
  const service = [arn('ecs', 'service/efs-mount-autoscaling-cluster/efs-mount-autoscaling-fargate')];
  const expected: Record<string, Record<string, string[]>> = {
    'Roles/Count': { 'elasticfilesystem:ClientMount': fileSystem, 'elasticfilesystem:ClientRootAccess': fileSystem },
    'Roles/Evaluate': {
      'elasticfilesystem:DescribeMountTargets': fileSystem,
      'elasticfilesystem:DescribeFileSystems': fileSystem,
      'ssm:GetParameters': ['', '/created/*', '/deployed', '/intended/*', '/refused/*'].map(parameter),
      'ecs:DescribeServices': service,
    },
    'Roles/CreateTarget': {
      'elasticfilesystem:DescribeMountTargets': fileSystem,
      'elasticfilesystem:CreateMountTarget': fileSystem,
      'ec2:CreateNetworkInterface': [
        arn('ec2', 'network-interface/*'),
        arn('ec2', 'security-group/<Network/Targets.GroupId>'),
        ...[1, 2, 3].map((zone) => arn('ec2', `subnet/<Network/Vpc/PrivateSubnet${zone}/Subnet>`)),
      ],
      'ssm:GetParameters': ['/created/*', '/intended/*', '/refused/*'].map(parameter),
      'ssm:PutParameter': ['/created/*', '/intended/*', '/refused/*'].map(parameter),
      'ssm:DeleteParameter': [parameter('/intended/*')],
    },
    'Roles/PollAvailable': { 'elasticfilesystem:DescribeMountTargets': fileSystem },
    'Roles/PublishSsm': {
      'elasticfilesystem:DescribeMountTargets': fileSystem,
      'ssm:GetParameters': ['', '/deployed'].map(parameter),
      'ssm:PutParameter': [parameter('')],
      'ssm:DeleteParameter': [parameter('/deployed')],
    },
    'Roles/Redeploy': {
      'ecs:DescribeServices': service,
      'ecs:UpdateService': service,
      'ssm:GetParameters': ['', '/deployed'].map(parameter),
      'ssm:PutParameter': [parameter('/deployed')],
    },
    'Service/Task/TaskRole': {
      'ssm:GetParameters': [parameter('')],
      'elasticfilesystem:DescribeMountTargets': fileSystem,
    },
  };
  for (const [role, actions] of Object.entries(expected)) {
    const found: Record<string, string[]> = {};
    for (const { effect, actions, resources } of statements(it, role)) {
      if (effect === 'Deny' || resources.includes('*')) continue;
      for (const action of actions) found[action] = [...(found[action] ?? []), ...resources].sort();
    }
    const kinds = Object.keys(INDIRECT_ACTIONS.everyFunction).filter((action) => action.startsWith('logs:'));
    for (const action of [...kinds, ...(role === 'Roles/Count' ? Object.keys(INDIRECT_ACTIONS.inVpc) : [])])
      delete found[action];
    assert.deepEqual(found, actions, role);
  }
  // By its access point only, which is where count may mount.
  const [mount] = statements(it, 'Roles/Count').filter(({ actions }) =>
    actions.includes('elasticfilesystem:ClientMount'),
  );
  assert.equal(
    it.text(mount?.condition.StringEquals['elasticfilesystem:AccessPointArn']),
    arn('elasticfilesystem', 'access-point/<Storage/Counting>'),
  );
});

test('with IAM, tasks may mount and write by their access point, and not as root', () => {
  const it = world('discovery');
  const [mount, ...others] = statements(it, 'Service/Task/TaskRole').filter(({ actions }) =>
    actions.some((action) => action.includes(':Client')),
  );
  assert.deepEqual([mount?.actions, others], [['elasticfilesystem:ClientMount', 'elasticfilesystem:ClientWrite'], []]);
  assert.match(it.text(mount?.condition.StringEquals['elasticfilesystem:AccessPointArn']), /<Storage\/Serving>$/);
});

test('the schedule starts this machine and nothing else; the machine invokes the six functions and nothing else', () => {
  const it = world('default');
  const starts = it.resources.find(
    ({ type, is }) => type === 'AWS::IAM::Role' && JSON.stringify(is).includes('scheduler.amazonaws.com'),
  );
  const actions = (role: string, service: string) =>
    statements(it, role)
      .filter(({ actions }) => actions.some((action) => action.startsWith(service)))
      .map(({ actions, resources }) => [actions, resources]);
  assert(starts);
  assert.deepEqual(
    statements(it, starts.path).map(({ actions, resources }) => [actions, resources]),
    [
      [['states:StartExecution'], ['<Pipeline/Machine>']],
      [['sqs:SendMessage'], ['<Pipeline/NotStarted.Arn>']],
    ],
  );
  const functions = FUNCTIONS.map((name) => `<Pipeline/${stateOf(name)}.Arn>`).sort();
  assert.deepEqual(actions('Pipeline/MachineRole', 'lambda:'), [[['lambda:InvokeFunction'], functions]]);
  const others = [...allowed(it, 'Pipeline/MachineRole')].filter(
    (action) => !/^(lambda:InvokeFunction|logs:|xray:)/.test(action),
  );
  assert.deepEqual(others, []);
});

test('each part has a role of its own', () => {
  const it = world('default');
  const roles = it.all('Lambda::Function').map(({ is }) => it.text(is.Role));
  assert.equal(new Set(roles).size, 7);
  const managed = it.all('IAM::Role').flatMap(({ is }) => is.ManagedPolicyArns ?? []);
  assert.deepEqual(
    managed.map((one) => it.text(one)),
    ['arn:<AWS::Partition>:iam::aws:policy/service-role/AWSBackupServiceRolePolicyForBackup'],
  );
});

test('every wildcard has a reason, and every reason a wildcard', () => {
  const everywhere = new Set<string>();
  const partly = new Set<string>();
  for (const name of NAMES) {
    const it = world(name);
    const reasons = wildcards(it.config);
    for (const { path } of it.all('IAM::Role')) {
      for (const { effect, actions, resources } of statements(it, path)) {
        if (effect !== 'Allow') continue;
        for (const action of actions) assert(!action.includes('*'), `${name}, ${path}: ${action}`);
        for (const resource of resources) {
          if (resource === '*') {
            for (const action of actions)
              assert(ACTIONS_WITHOUT_RESOURCE[action], `${name}, ${path}: ${action} for everything, and no reason`);
            for (const action of actions) everywhere.add(action);
          } else if (resource.includes('*')) {
            assert(reasons[resource], `${name}, ${path}: ${resource}, and no reason`);
            partly.add(resource);
          }
        }
      }
    }
  }
  assert.deepEqual([...everywhere].sort(), Object.keys(ACTIONS_WITHOUT_RESOURCE).sort());
  const settings = NAMES.map((name) => Object.keys(wildcards(world(name).config))).flat();
  assert.deepEqual([...partly].sort(), [...new Set(settings)].sort());
});

test('cdk-nag finds nothing that is not acknowledged, with a reason for each', () => {
  let acknowledged = 0;
  // A stack in which it finds something is none: `world` says what.
  for (const name of NAMES) {
    for (const { metadata, path } of world(name)
      .system.node.findAll()
      .map(({ node }) => node)) {
      for (const { type, data } of metadata) {
        if (type !== Validations.ACKNOWLEDGED_RULES_METADATA_KEY) continue;
        for (const [id, reason] of Object.entries(data as Record<string, string>)) {
          assert.equal(typeof reason, 'string', `${path}: ${id}`);
          assert(reason.length > 20, `${path}: ${id}`);
          acknowledged += 1;
        }
      }
    }
  }
  assert(acknowledged > 50);
});
