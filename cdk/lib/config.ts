/**
 * What an installation may choose. Every setting has a default, most of them the original design's; `docs/reference/settings.md` has them in
 * a table that is made from this file.
 *
 * Settings come from one file (`-c config=FILE`, else `config.json` in this folder where there is one), and from CDK
 * context (`-c scaling.threshold=50000`), which wins. All is checked before anything is made of it.
 */
import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Node } from 'constructs';
import { z } from 'zod';

const id = (prefix: string, what: string) =>
  z
    .string()
    .regex(new RegExp(`^${prefix}-[0-9a-f]{8,40}$`), `expected the id of ${what}, such as ${prefix}-0123456789abcdef0`);
const whole = (least: number, most: number) => z.int().min(least).max(most);
const word = /^[A-Za-z][A-Za-z0-9-]{0,62}$/;

const Subnet = z.strictObject({
  id: id('subnet', 'a subnet'),
  zone: z.string().describe('the name of its zone, such as ap-northeast-1a'),
  routeTable: id('rtb', 'a route table').optional(),
});

const Network = z.strictObject({
  zones: whole(2, 6).default(3).describe('zones with a private subnet each: as many targets as there can be'),
  zoneNames: z
    .array(z.string().regex(/^[a-z]{2}(-[a-z]+)+-\d[a-z]$/, 'expected the name of a zone, such as ap-northeast-1a'))
    .min(2)
    .max(6)
    .optional()
    .describe('these zones, instead of the first `network.zones` by name: `["ap-northeast-1a", "ap-northeast-1d"]`'),
  cidr: z.cidrv4().default('10.0.0.0/16').describe('of the VPC; its subnets are x.y.1.0/24, x.y.2.0/24 and so on'),
  existing: z
    .strictObject({
      vpc: id('vpc', 'a VPC'),
      cidr: z.cidrv4(),
      subnets: z.array(Subnet).min(2).max(6),
    })
    .optional()
    .describe('a VPC that is there: `{"vpc": …, "cidr": …, "subnets": [{"id": …, "zone": …, "routeTable": …}]}`'),
  endpoints: z
    .boolean()
    .default(true)
    .describe('VPC endpoints of the services that are used; `false` where the VPC has them, or a way to the internet'),
  flowLogs: z.boolean().default(true).describe('log the connections of the VPC that is made, for `pipeline.logDays`'),
});

const Storage = z.strictObject({
  existing: z
    .strictObject({
      fileSystem: id('fs', 'an EFS file system'),
      securityGroup: id('sg', 'the security group of its mount targets').optional(),
      targetSubnets: z.array(id('subnet', 'a subnet')).min(1).max(6).optional(),
    })
    .optional()
    .describe(
      'a file system that is there: `{"fileSystem": …, "securityGroup": …, "targetSubnets": […]}`, the subnets in whose zones it has mount targets. Without the other two, as restored into the network of the stack: with its security group, and targets in the first zones',
    ),
  performance: z
    .enum(['general-purpose', 'max-io'])
    .default('general-purpose')
    .describe('AWS advises against `max-io`: each call takes longer'),
  throughput: z.enum(['elastic', 'bursting', 'provisioned']).default('elastic').describe('how EFS sells throughput'),
  provisionedMibps: whole(1, 3414).optional().describe('MiB/s, for `provisioned`'),
  directory: z
    .string()
    .regex(/^(\/|(\/[A-Za-z0-9._-]{1,100}){1,4})$/, 'expected a path of at most four names, such as /data')
    .default('/data')
    .describe('the directory that the service keeps its files in, and that is counted; all of it with `mounted`'),
  requireTls: z
    .boolean()
    .default(true)
    .describe('EFS refuses whoever speaks without TLS; `count` and `nfs` speak TLS in any case'),
  requireIam: z
    .boolean()
    .default(false)
    .describe(
      'EFS refuses whoever has no permission; only after `efs-autoscale probe` has shown `tls_client_certificate`',
    ),
  backup: z.boolean().default(true).describe('AWS Backup, daily, kept for 30 days'),
  retain: z
    .boolean()
    .default(true)
    .describe('the file system, its key and its backups outlive the stack with the data'),
});

const Scaling = z.strictObject({
  threshold: whole(0, Number.MAX_SAFE_INTEGER).default(100_000).describe('more files than this are too many'),
  rule: z.enum(['threshold', 'per-target']).default('threshold').describe('see [operations](operations.md)'),
  initialMountTargets: whole(1, 6)
    .default(2)
    .describe('two at most are made by the stack, in the first zones; the pipeline makes the others'),
  maxMountTargets: whole(1, 6).optional().describe('no more targets than this; else as many as zones'),
  ipAddressType: z
    .enum(['IPV4_ONLY', 'DUAL_STACK', 'IPV6_ONLY'])
    .default('IPV4_ONLY')
    .describe('of the targets that the pipeline makes; IPv6 only with subnets of `network.existing` that have it'),
  cooldownSeconds: whole(0, 31_536_000).default(0).describe('between one new target and the next'),
});

const OtlpEndpoint = z
  .string()
  .regex(/^https?:\/\/[a-z0-9.-]+(:\d{1,5})?(\/[\w./-]*)?$/i, 'expected an address such as http://localhost:4318');

const Pipeline = z.strictObject({
  architecture: z.enum(['arm64', 'x86_64']).default('arm64').describe('of functions and tasks'),
  scale: z
    .enum(['small', 'medium', 'large'])
    .default('medium')
    .describe("the original design's table: `count` has 512 MB below 100,000 files, 1024 MB to 500,000, 2048 MB above"),
  schedule: z
    .string()
    .regex(/^(rate|cron)\(.+\)$/, 'expected rate(…) or cron(…)')
    .default('rate(5 minutes)')
    .describe('of EventBridge Scheduler'),
  paused: z.boolean().default(false).describe('nothing is started by the schedule'),
  pollIntervalSeconds: whole(1, 300).default(10).describe('between two looks at a new target'),
  // Far below the machine's own timeout, which is no error that anything catches.
  pollTimeoutSeconds: whole(10, 1800).default(300).describe('then the execution fails, and the next one waits on'),
  reservedConcurrency: z
    .boolean()
    .default(false)
    .describe(
      "`count` has as many places as the machine's Map asks for; needs a quota of 108 for Lambda, and new accounts have 10",
    ),
  inVpc: z
    .boolean()
    .default(false)
    .describe('all functions in the VPC; else only `count`, which has to be there, and fewer endpoints to pay for'),
  namePrefix: z
    .string()
    .regex(/^([A-Za-z][A-Za-z0-9-]{0,20})?$/, 'expected a letter, then letters, digits and -')
    .default('')
    .describe('before the names of the functions, which are otherwise those of their folders'),
  parameterName: z
    .string()
    // Systems Manager allows 15 levels, two of which are the ledger's, and keeps two words for AWS.
    .regex(
      /^(?!\/(aws|ssm)\b)(\/[A-Za-z0-9._-]+){1,13}$/i,
      'expected a full name, such as /efs-mount-autoscaling/mount-targets',
    )
    .max(900)
    .default('/efs-mount-autoscaling/mount-targets')
    .describe('where the list is published'),
  parameterType: z.enum(['String', 'SecureString']).default('String').describe('of that parameter'),
  redeploy: z
    .enum(['on-change', 'never'])
    .default('on-change')
    .describe('of the service when the list changes; `never` for one that reads the list again by itself'),
  countFullEvery: whole(1, 1000)
    .optional()
    .describe('a warm function reads everything at every so many counts, and between them what has changed'),
  countCacheSeconds: whole(0, 86_400).default(0).describe('a count younger than this is used again'),
  logDays: z
    .union([1, 3, 5, 7, 14, 30, 90, 365].map((days) => z.literal(days)))
    .default(7)
    .describe('logs are kept'),
  binaries: z
    .string()
    .default('target/lambda')
    .describe('folder of `count/bootstrap`, `file-service/bootstrap` and so on, from the project'),
  otlpEndpoint: OtlpEndpoint.optional().describe(
    'where the functions send their traces: a collector of OTLP over HTTP, such as `http://localhost:4318` of an extension; else nowhere',
  ),
});

const Service = z.strictObject({
  existing: z
    .strictObject({
      cluster: z.string().regex(word, 'expected the name of an ECS cluster'),
      name: z.string().regex(word, 'expected the name of an ECS service'),
      securityGroup: id('sg', "the security group of the service's tasks"),
    })
    .optional()
    .describe('an ECS service that is there and is only redeployed: `{"cluster": …, "name": …, "securityGroup": …}`'),
  image: z
    .strictObject({
      repository: z
        .string()
        .regex(/^[a-z0-9._/-]{2,256}$/)
        .optional(),
      tag: z
        .string()
        .regex(/^[\w.-]{1,128}$/)
        .optional(),
      digest: z
        .string()
        .regex(/^sha256:[0-9a-f]{64}$/, 'expected sha256: and 64 hexadecimal digits')
        .optional(),
      uri: z
        .string()
        .regex(/^[a-z0-9.-]+(:\d+)?\/[\w./-]+(:[\w.-]+)?(@sha256:[0-9a-f]{64})?$/)
        .optional(),
    })
    .optional()
    .describe(
      'an image in ECR, `{"repository": …, "tag": …}` or with `"digest": "sha256:…"`; or `{"uri": …}` of any registry. Else one is made of `file-service/` in `pipeline.binaries`; it needs Docker, and no compiler',
    ),
  size: z
    .enum(['light', 'standard', 'heavy'])
    .default('standard')
    .describe("the original design's table: 0.5 vCPU and 1 GB, 2 and 4, or 4 and 8"),
  desiredCount: whole(0, 100)
    .default(3)
    .describe('tasks, over the zones, and no fewer by auto scaling; none at the first deployment'),
  maxCount: whole(1, 1000).default(12).describe('auto scaling makes no more of them'),
  cpuPercent: whole(10, 90).default(60).describe('auto scaling keeps to it'),
  requestsPerTask: whole(1, 10_000_000).default(60_000).describe('a minute; auto scaling keeps to it'),
  launch: z
    .enum(['fargate', 'fargate-spot', 'managed-instances'])
    .default('fargate')
    .describe('`fargate-spot`: the first task on Fargate, the others on Spot. On `managed-instances` a task may mount'),
  backend: z
    .enum(['nfs', 'mounted'])
    .default('nfs')
    .describe('`mounted`: the kernel mounts the whole file system, without TLS; only on `managed-instances`'),
  entry: z
    .enum(['load-balancer', 'service-discovery'])
    .default('load-balancer')
    .describe('an internal load balancer with HTTPS; or a name for the addresses of all tasks'),
  domainName: z
    .string()
    .max(253)
    // What is after its first dot becomes a private zone, in which the VPC finds no other names.
    .regex(/^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.){2,}[a-z]{2,63}$/, 'expected a name, such as files.example.com')
    .default('files.efs-autoscale.internal')
    .describe('the name of the service, in a private zone of the VPC'),
  hostedZone: z
    .boolean()
    .default(true)
    .describe(
      "that zone is made. `false` where the VPC is another account's, or has the zone: the name is then for its owner to point at the output `BalancerName`",
    ),
  certificateArn: z
    .string()
    .regex(/^arn:aws[a-z-]*:acm:/, 'expected the ARN of a certificate in ACM')
    .optional()
    .describe('of the load balancer; else one is made that signs itself, for `service.domainName`'),
  accessLogs: z
    .string()
    .regex(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/, 'expected own, or the name of a bucket')
    .optional()
    .describe('of the load balancer: `own` for a bucket that is made and outlives the stack, or the name of one'),
  exec: z
    .boolean()
    .default(false)
    .describe('ECS Exec into the tasks, with its endpoint; they may then write to their own disk'),
  otlpEndpoint: OtlpEndpoint.optional().describe(
    'where the tasks send their traces: a collector of OTLP over HTTP that they reach, at port 443; else nowhere',
  ),
  clientCidrs: z.array(z.cidrv4()).max(20).default([]).describe('who may reach the service; else the whole VPC'),
});

const Audit = z.strictObject({
  trail: z
    .boolean()
    .default(false)
    .describe(
      "a CloudTrail trail of all that is changed; most accounts have one, which then has the system's calls too",
    ),
});

const Alarms = z.strictObject({
  emails: z.array(z.email()).max(20).default([]).describe('who is told; each has to confirm'),
});

const Local = z.strictObject({
  endpoint: z.string().regex(/^http:\/\/(127\.0\.0\.1|localhost):\d+$/, 'expected http://127.0.0.1:PORT'),
  directory: z.string().regex(/^\//, 'expected an absolute path'),
  /** The end of the path of a resource that cannot be made, for the tests of a deployment that fails. */
  fails: z.string().optional(),
});

/** What `efs-autoscale preflight` has found in the account. */
const Account = z.strictObject({
  /** Of the service of this stack, where it is there: its name, and how many tasks it is to have now. */
  serviceName: z.string().nullable(),
  desiredCount: whole(0, 1_000_000).nullable(),
  zones: z.array(z.string()),
  /** How many functions may run at once in the account. */
  lambdaConcurrency: whole(0, 1_000_000),
});

const Stack = z.strictObject({
  name: z
    .string()
    .regex(word, 'expected a letter, then letters, digits and -')
    .default('efs-mount-autoscaling')
    .describe('of the stack, and of what has a name of its own'),
  terminationProtection: z.boolean().default(true).describe('nobody deletes the stack with the data by accident'),
  tags: z
    .record(z.string().regex(/^(?!aws:)[\w .:/=+@-]{1,128}$/i), z.string().regex(/^[\w .:/=+@-]{0,256}$/))
    .default({})
    .describe('of everything that has tags: `{"cost-center": "42"}`'),
  permissionsBoundary: z
    .string()
    .regex(
      /^(arn:aws[a-z-]*:iam::(\d{12}|aws):policy\/)?[\w+=,.@/-]{1,128}$/,
      'expected the name or the ARN of a policy',
    )
    .optional()
    .describe('of every role: the name of a policy in the account, or its ARN'),
  encryptionKey: z
    .union([z.literal('own'), z.string().regex(/^arn:aws[a-z-]*:kms:/, 'expected own, or the ARN of a key')])
    .optional()
    .describe(
      "of logs, token and queue: `own` for one that is made (in each stack), or the ARN of one whose policy lets CloudWatch Logs use it; else AWS's own",
    ),
});

export const Schema = z.strictObject({
  stack: Stack.prefault({}),
  network: Network.prefault({}),
  storage: Storage.prefault({}),
  scaling: Scaling.prefault({}),
  pipeline: Pipeline.prefault({}),
  service: Service.prefault({}),
  audit: Audit.prefault({}),
  alarms: Alarms.prefault({}),
  /** From `make deploy`; nobody gives it by hand. */
  account: Account.optional(),
  /** Into the emulator of `make run STACK=1`; for nobody else. */
  local: Local.optional(),
});

export type Config = z.output<typeof Schema>;
export type Given = z.input<typeof Schema>;

/** A setting that is wrong; what was wrong and what was expected, a line for each. */
export class ConfigError extends Error {}

/** Lambda leaves at least 100 places to other functions, and the machine's Map asks for 8. */
const MIN_LAMBDA_CONCURRENCY = 108;

/** What settings ask of each other: the setting that cannot stay, and why. */
function conflicts(config: Config): [string, string][] {
  const { network, storage, scaling, service, pipeline } = config;
  const { account } = config;
  const zones = network.existing?.subnets.length ?? network.zoneNames?.length ?? network.zones;
  const unknown = network.zoneNames?.filter((name) => account && !account.zones.includes(name)) ?? [];
  const found: [boolean, string, string][] = [
    [
      scaling.initialMountTargets > zones,
      'scaling.initialMountTargets',
      `there are ${zones} zones, and a zone has one target`,
    ],
    [
      (scaling.maxMountTargets ?? zones) < scaling.initialMountTargets,
      'scaling.maxMountTargets',
      'it is less than scaling.initialMountTargets',
    ],
    [
      new Set(network.zoneNames).size !== (network.zoneNames?.length ?? 0),
      'network.zoneNames',
      'a zone is there twice',
    ],
    [
      unknown.length > 0,
      'network.zoneNames',
      `the region has ${account?.zones.join(', ')}, and not ${unknown.join(', ')}`,
    ],
    [
      account !== undefined && !network.existing && !network.zoneNames && zones > account.zones.length,
      'network.zones',
      `the region has ${account?.zones.length} zones: ${account?.zones.join(', ')}`,
    ],
    [
      pipeline.reservedConcurrency && account !== undefined && account.lambdaConcurrency < MIN_LAMBDA_CONCURRENCY,
      'pipeline.reservedConcurrency',
      `the account's quota for Lambda is ${account?.lambdaConcurrency}, and this needs ${MIN_LAMBDA_CONCURRENCY}: ask for more, or leave it false`,
    ],
    [
      new Set(network.existing?.subnets.map((subnet) => subnet.zone)).size !== (network.existing?.subnets.length ?? 0),
      'network.existing.subnets',
      'a zone has one mount target at most: one subnet for each zone',
    ],
    [
      !network.cidr.endsWith('.0.0/16') && !network.existing,
      'network.cidr',
      'expected a network of the form x.y.0.0/16',
    ],
    [
      (storage.existing?.securityGroup ?? storage.existing?.targetSubnets) !== undefined && !network.existing,
      'storage.existing',
      'its security group and its subnets are in a VPC: network.existing says which',
    ],
    [
      network.existing !== undefined &&
        storage.existing?.targetSubnets?.every((subnet) =>
          network.existing?.subnets.some((known) => known.id === subnet),
        ) === false,
      'storage.existing.targetSubnets',
      'expected subnets of network.existing.subnets',
    ],
    [
      scaling.ipAddressType !== 'IPV4_ONLY' && !network.existing,
      'scaling.ipAddressType',
      'the subnets that the stack makes have IPv4 only: network.existing says which have IPv6',
    ],
    [
      storage.performance === 'max-io' && storage.throughput === 'elastic',
      'storage.performance',
      'EFS has max-io with bursting or provisioned throughput only',
    ],
    [
      (storage.throughput === 'provisioned') !== (storage.provisionedMibps !== undefined),
      'storage.provisionedMibps',
      'expected with, and only with, storage.throughput=provisioned',
    ],
    [
      storage.requireIam && !storage.requireTls,
      'storage.requireIam',
      'the permission travels in the TLS certificate: storage.requireTls must be true',
    ],
    [
      storage.directory === '/' && service.backend === 'nfs' && !service.existing,
      'storage.directory',
      'it belongs to root, and the service is none: expected one below it, such as /data',
    ],
    [
      service.existing !== undefined && network.existing === undefined,
      'service.existing',
      'its tasks are in a VPC: network.existing says which',
    ],
    [
      !service.hostedZone && service.entry !== 'load-balancer',
      'service.hostedZone',
      'service discovery is a zone: service.entry must be load-balancer',
    ],
    [
      service.certificateArn !== undefined && service.entry !== 'load-balancer',
      'service.certificateArn',
      'only a load balancer shows it: service.entry must be load-balancer',
    ],
    [
      service.image !== undefined &&
        (service.image.uri ? 1 : 0) + (service.image.tag ? 1 : 0) + (service.image.digest ? 1 : 0) !== 1,
      'service.image',
      'expected one of tag, digest and uri',
    ],
    [
      service.image !== undefined && (service.image.repository === undefined) !== (service.image.uri !== undefined),
      'service.image',
      'a tag or a digest is one of a repository, and a uri names its own',
    ],
    [
      service.accessLogs !== undefined && (service.entry !== 'load-balancer' || service.existing !== undefined),
      'service.accessLogs',
      'only a load balancer of the stack has them',
    ],
    [
      service.backend === 'mounted' && service.launch !== 'managed-instances',
      'service.backend',
      'a Fargate task cannot mount NFS: service.launch must be managed-instances',
    ],
    [
      service.backend === 'mounted' && storage.requireTls,
      'service.backend',
      'the kernel mounts without TLS: storage.requireTls must be false',
    ],
    [service.maxCount < service.desiredCount, 'service.maxCount', 'it is less than service.desiredCount'],
    [
      pipeline.pollTimeoutSeconds < pipeline.pollIntervalSeconds,
      'pipeline.pollTimeoutSeconds',
      'it is less than pipeline.pollIntervalSeconds',
    ],
  ];
  return found.filter(([wrong]) => wrong).map(([, setting, error]) => [setting, error]);
}

/**
 * Checks settings and fills in what was not said.
 *
 * @throws ConfigError with a line for each setting that is wrong
 */
export function check(given: unknown): Config {
  const parsed = Schema.safeParse(given);
  const wrong: [string, string][] = parsed.success
    ? conflicts(parsed.data)
    : parsed.error.issues.map((issue) => [issue.path.join('.') || 'the settings', issue.message]);
  if (!parsed.success || wrong.length > 0) {
    throw new ConfigError(wrong.map(([setting, error]) => `${setting}: ${error}`).join('\n'));
  }
  return parsed.data;
}

/** A setting in CDK context. What the library and the CLI keep there has other characters in its name. */
const SETTING = /^[A-Za-z]\w*(\.\w+)*$/;

/**
 * The settings of a text such as `scaling.threshold=50000 pipeline.schedule=rate(10 minutes)`. A value goes on until the
 * next name, so that it may have spaces in it.
 *
 * @throws ConfigError when the text does not begin with a setting
 */
export function settingsOf(text: string): [string, string][] {
  const settings: [string, string][] = [];
  let rest = text.trim();
  while (rest !== '') {
    const [before = '', name = ''] = SETTING_START.exec(rest) ?? [];
    if (before === '')
      throw new ConfigError(`SET: ${rest}: expected settings of known groups, such as scaling.threshold=50000`);
    rest = rest.slice(before.length);
    const end = jsonEnd(rest) ?? SETTING_NEXT.exec(rest)?.index ?? rest.length;
    settings.push([name, rest.slice(0, end).trim()]);
    rest = rest.slice(end).trim();
  }
  return settings;
}

// Only at the name of a group is a text divided: a value may have a word with a dot and = in it.
const NAME_OF_SETTING = `((?:${Object.keys(Schema.shape).join('|')})(?:\\.\\w+)+)=`;
const SETTING_START = new RegExp(`^${NAME_OF_SETTING}`);
const SETTING_NEXT = new RegExp(`\\s${NAME_OF_SETTING}`);

/** Where the JSON that the text begins with ends: a text in quotation marks, a list, an object. */
function jsonEnd(text: string): number | undefined {
  if (!/^["{[]/.test(text)) return undefined;
  let depth = 0;
  let isQuoted = false;
  for (let at = 0; at < text.length; at += 1) {
    const char = text[at] ?? '';
    if (isQuoted && char === '\\') at += 1;
    else if (char === '"') isQuoted = !isQuoted;
    else if (!isQuoted && '{['.includes(char)) depth += 1;
    else if (!isQuoted && '}]'.includes(char)) depth -= 1;
    if (depth === 0 && !isQuoted) return at + 1;
  }
  return undefined;
}

/** A value of CDK context: what the command line gives is text. */
function value(text: unknown): unknown {
  if (typeof text !== 'string') return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * The settings of an app: those of the file, then those of the context.
 *
 * @throws ConfigError when a file cannot be read or a setting is wrong
 */
export function read(node: Node, folder: string): Config {
  const named: unknown = node.tryGetContext('config');
  const file = resolve(folder, typeof named === 'string' ? named : 'config.json');
  let given: unknown = {};
  if (named !== undefined || existsSync(file)) {
    try {
      given = JSON.parse(readFileSync(file, 'utf8'));
    } catch (error) {
      throw new ConfigError(`config: ${file} cannot be read as JSON: ${(error as Error).message}`);
    }
  }
  const set: unknown = node.tryGetContext('set');
  const context = Object.entries(node.getAllContext() as Record<string, unknown>);
  // What is said for itself wins over what is said among others. A stack may be called `true` or `null`.
  for (const [key, text] of [...settingsOf(typeof set === 'string' ? set : ''), ...context]) {
    if (!['config', 'set'].includes(key) && SETTING.test(key))
      given = put(given, key.split('.'), key === 'stack.name' ? text : value(text));
  }
  return check(given);
}

/** The settings with one more, which wins. What is no group of settings stays for the check to find. */
function put(given: unknown, [name = '', ...rest]: string[], set: unknown): unknown {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) return given;
  const group = given as Record<string, unknown>;
  return { ...group, [name]: rest.length === 0 ? set : put(group[name] ?? {}, rest, set) };
}
