/** What an installation may choose, and what it is told when it cannot. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { App } from 'aws-cdk-lib';
import { check, ConfigError, read, Schema, settingsOf } from '../lib/config.ts';
import { PROJECT } from '../lib/functions.ts';
import { settingsTable } from '../lib/settings-table.ts';
import { SETTINGS, temporary } from './world.ts';

/** `{a: {b: 1}}` of `a.b` and 1. */
const setting = (name: string, value: unknown) =>
  name.split('.').reduceRight<unknown>((inner, key) => ({ [key]: inner }), value);

/** What is said of settings that cannot stay. */
function refused(what: () => unknown): string {
  try {
    what();
  } catch (error) {
    assert(error instanceof ConfigError, String(error));
    return error.message;
  }
  return '';
}

test("without any settings, the original design's", () => {
  const { stack, network, storage, scaling, pipeline, service, audit, alarms, local } = check({});
  assert.deepEqual(stack, { name: 'efs-mount-autoscaling', terminationProtection: true, tags: {} });
  assert.deepEqual(network, { zones: 3, cidr: '10.0.0.0/16', endpoints: true, flowLogs: true });
  assert.deepEqual(storage, {
    performance: 'general-purpose',
    throughput: 'elastic',
    directory: '/data',
    requireTls: true,
    requireIam: false,
    backup: true,
    retain: true,
  });
  assert.deepEqual(scaling, {
    threshold: 100_000,
    rule: 'threshold',
    initialMountTargets: 2,
    ipAddressType: 'IPV4_ONLY',
    cooldownSeconds: 0,
  });
  assert.deepEqual(pipeline, {
    architecture: 'arm64',
    scale: 'medium',
    schedule: 'rate(5 minutes)',
    paused: false,
    pollIntervalSeconds: 10,
    pollTimeoutSeconds: 300,
    redeploy: 'on-change',
    reservedConcurrency: false,
    inVpc: false,
    namePrefix: '',
    parameterName: '/efs-mount-autoscaling/mount-targets',
    parameterType: 'String',
    countCacheSeconds: 0,
    logDays: 7,
    binaries: 'target/lambda',
  });
  assert.deepEqual(service, {
    size: 'standard',
    desiredCount: 3,
    maxCount: 12,
    cpuPercent: 60,
    requestsPerTask: 60_000,
    launch: 'fargate',
    backend: 'nfs',
    entry: 'load-balancer',
    domainName: 'files.efs-autoscale.internal',
    clientCidrs: [],
    exec: false,
    hostedZone: true,
  });
  assert.deepEqual([audit, alarms, local], [{ trail: false }, { emails: [] }, undefined]);
});

test('every bound holds, and the setting is named', () => {
  const bounds: [string, unknown[]][] = [
    ['stack.name', ['1st', 'a b', '', 'x'.repeat(64)]],
    ['network.zones', [1, 7, 2.5, '3']],
    ['network.zoneNames', [['eu-west-1a'], ['eu-west-1a', 'use1-az1'], 'eu-west-1a']],
    ['network.cidr', ['10.0.0.0', '10.0.0.0/24', 'ten', '10.1.2.0/16']],
    ['network.endpoints', ['yes', 1]],
    ['network.existing.vpc', ['vpc', 'sg-00000000']],
    ['storage.existing.fileSystem', ['fs-12', 'fsmt-00000000']],
    ['storage.performance', ['maxIO']],
    ['storage.throughput', ['burst']],
    ['storage.provisionedMibps', [0, 3415]],
    ['storage.directory', ['data', '/a/b/c/d/e', '/a/', '/a b', '//']],
    ['scaling.threshold', [-1, 0.5, '100']],
    ['scaling.rule', ['per_target']],
    ['scaling.initialMountTargets', [0, 7]],
    ['scaling.maxMountTargets', [0, 7]],
    ['scaling.ipAddressType', ['ipv6', 'IPV6']],
    ['scaling.cooldownSeconds', [-1, 31_536_001]],
    ['pipeline.architecture', ['arm', 'x86-64']],
    ['pipeline.scale', ['huge']],
    ['pipeline.schedule', ['5 minutes', 'rate()']],
    ['pipeline.pollIntervalSeconds', [0, 301]],
    ['pipeline.pollTimeoutSeconds', [9, 1801]],
    ['pipeline.namePrefix', ['-a', '1', 'a'.repeat(22)]],
    [
      'pipeline.parameterName',
      ['targets', '/a/', '/a b', '/aws/targets', '/SSM/x', '/a'.repeat(14), `/${'a'.repeat(900)}`],
    ],
    ['pipeline.parameterType', ['StringList']],
    ['pipeline.redeploy', ['always', false]],
    ['account.zones', ['eu-west-1a']],
    ['pipeline.countCacheSeconds', [-1, 86_401]],
    ['pipeline.logDays', [0, 2, 8]],
    ['service.image.tag', ['', 'a b']],
    ['service.image.digest', ['sha256:12', 'latest']],
    ['service.image.uri', ['router', 'https://example.com/router']],
    ['service.accessLogs', ['A', 'a_b', '']],
    ['service.otlpEndpoint', ['localhost:4318', 'ftp://a', 'https://a?b=c']],
    ['pipeline.otlpEndpoint', ['', 'http://']],
    ['service.exec', ['yes']],
    ['stack.tags', [{ 'aws:x': '1' }, { 'a"': '1' }, 'a=b']],
    ['stack.permissionsBoundary', ['a b', 'arn:aws:iam::12:policy/x']],
    ['stack.encryptionKey', ['mine', 'arn:aws:s3:::x']],
    ['pipeline.countFullEvery', [0, 1001]],
    ['service.size', ['medium']],
    ['service.desiredCount', [-1, 101]],
    ['service.maxCount', [0, 1001]],
    ['service.cpuPercent', [9, 91]],
    ['service.requestsPerTask', [0, 10_000_001]],
    ['service.launch', ['ec2']],
    ['service.entry', ['none']],
    ['service.domainName', ['files', 'example.com', 'Files.example.com', '-a.example.com']],
    ['service.certificateArn', ['arn:aws:iam::1:server-certificate/a']],
    ['service.clientCidrs', [['10.0.0.1'], '10.0.0.0/8']],
    ['audit.trail', ['on']],
    ['alarms.emails', [['me'], 'me@example.com']],
    ['local.endpoint', ['http://example.com:80', 'https://localhost:1']],
  ];
  for (const [name, values] of bounds) {
    for (const value of values) {
      const said = refused(() => check(setting(name, value)));
      assert(
        said.split('\n').some((line) => line.startsWith(name)),
        `${name}=${JSON.stringify(value)}: ${said || 'taken'}`,
      );
    }
  }
});

test('a setting that there is not is named', () => {
  assert.match(
    refused(() => check({ scaling: { treshold: 5 } })),
    /^scaling: .*treshold/,
  );
  assert.match(
    refused(() => check({ scalling: {} })),
    /scalling/,
  );
  assert.match(
    refused(() => check([])),
    /settings/,
  );
  assert.match(
    refused(() => check({ scaling: { threshold: -1 }, pipeline: { scale: 'huge' } })),
    /scaling\.threshold: .*\npipeline\.scale: /,
  );
});

test('settings that cannot be together are named, with the reason', () => {
  const { existing } = SETTINGS;
  const account = { serviceName: null, desiredCount: null, zones: ['eu-west-1a', 'eu-west-1b'], lambdaConcurrency: 10 };
  assert.equal(
    refused(() => check({ network: { zones: 2 }, account })),
    '',
    'a region with two zones',
  );
  const conflicts: [unknown, RegExp][] = [
    [{ scaling: { initialMountTargets: 4 } }, /^scaling\.initialMountTargets: there are 3 zones/],
    [{ scaling: { initialMountTargets: 2, maxMountTargets: 1 } }, /^scaling\.maxMountTargets: /],
    [{ storage: existing.storage }, /^storage\.existing: .*network\.existing/],
    [{ service: existing.service }, /^service\.existing: .*network\.existing/],
    [
      { ...existing, storage: { existing: { ...existing.storage.existing, targetSubnets: ['subnet-99999999'] } } },
      /^storage\.existing\.targetSubnets: /,
    ],
    [
      {
        network: {
          existing: {
            ...existing.network.existing,
            subnets: existing.network.existing.subnets.map((subnet) => ({ ...subnet, zone: 'a' })),
          },
        },
      },
      /^network\.existing\.subnets: .*one subnet for each zone/,
    ],
    [{ scaling: { ipAddressType: 'DUAL_STACK' } }, /^scaling\.ipAddressType: .*network\.existing/],
    [{ storage: { performance: 'max-io' } }, /^storage\.performance: /],
    [{ storage: { throughput: 'provisioned' } }, /^storage\.provisionedMibps: /],
    [{ storage: { provisionedMibps: 100 } }, /^storage\.provisionedMibps: /],
    [{ storage: { requireIam: true, requireTls: false } }, /^storage\.requireIam: /],
    [{ storage: { directory: '/' } }, /^storage\.directory: /],
    [{ service: { backend: 'mounted' }, storage: { requireTls: false } }, /^service\.backend: .*managed-instances/],
    [{ service: { backend: 'mounted', launch: 'managed-instances' } }, /^service\.backend: .*requireTls/],
    [
      { service: { entry: 'service-discovery', certificateArn: SETTINGS.spot.service.certificateArn } },
      /^service\.certificateArn: /,
    ],
    [{ service: { entry: 'service-discovery', hostedZone: false } }, /^service\.hostedZone: /],
    [{ service: { desiredCount: 13 } }, /^service\.maxCount: /],
    [{ pipeline: { pollIntervalSeconds: 60, pollTimeoutSeconds: 30 } }, /^pipeline\.pollTimeoutSeconds: /],
    [{ service: { image: { repository: 'a/b' } } }, /^service\.image: expected one of tag, digest and uri/],
    [{ service: { image: { repository: 'a/b', uri: 'example.com/a' } } }, /^service\.image: .*names its own/],
    [{ service: { image: { tag: 'a' } } }, /^service\.image: .*one of a repository/],
    [{ service: { accessLogs: 'own', entry: 'service-discovery' } }, /^service\.accessLogs: /],
    [{ network: { zoneNames: ['eu-west-1a', 'eu-west-1a'] } }, /^network\.zoneNames: a zone is there twice/],
    [{ network: { zoneNames: ['eu-west-1a', 'eu-west-1d'] }, account }, /^network\.zoneNames: .*and not eu-west-1d/],
    [{ account }, /^network\.zones: the region has 2 zones: eu-west-1a, eu-west-1b$/],
    [
      { pipeline: { reservedConcurrency: true }, network: { zones: 2 }, account },
      /^pipeline\.reservedConcurrency: the account's quota for Lambda is 10, and this needs 108/,
    ],
  ];
  for (const [given, expected] of conflicts)
    assert.match(
      refused(() => check(given)),
      expected,
    );
});

test('settings of a file, and those of the context over them', () => {
  const folder = temporary();
  writeFileSync(
    join(folder, 'config.json'),
    JSON.stringify({ scaling: { threshold: 7, rule: 'per-target' }, pipeline: { paused: true } }),
  );
  writeFileSync(join(folder, 'other.json'), JSON.stringify({ scaling: { threshold: 9 } }));
  writeFileSync(join(folder, 'broken.json'), '{');
  writeFileSync(join(folder, 'list.json'), '[1]');
  const of = (context: Record<string, unknown>) => read(new App({ context }).node, folder);
  assert.deepEqual([of({}).scaling.threshold, of({}).pipeline.paused], [7, true]);
  const over = of({ 'scaling.threshold': '8', 'pipeline.scale': 'large', 'alarms.emails': '["a@example.com"]' });
  assert.deepEqual(
    [over.scaling.threshold, over.scaling.rule, over.pipeline.scale, over.alarms.emails],
    [8, 'per-target', 'large', ['a@example.com']],
  );
  assert.equal(of({ scaling: '{"threshold": 5}' }).scaling.threshold, 5);
  const other = of({ config: 'other.json' });
  assert.deepEqual([other.scaling.threshold, other.pipeline.paused], [9, false]);
  const error = (context: Record<string, unknown>) => refused(() => of(context));
  assert.match(error({ config: 'missing.json' }), /^config: .*missing\.json/);
  assert.match(error({ config: 'broken.json' }), /^config: .*broken\.json cannot be read as JSON/);
  assert.match(error({ config: 'list.json' }), /the settings/);
  assert.match(error({ 'scaling.treshold': '5' }), /treshold/);
  assert.match(error({ 'scalling.threshold': '5' }), /scalling/);
  assert.match(error({ threshold: '5' }), /threshold/);
  assert.match(error({ scaling: '5' }), /^scaling: /);
  assert.match(error({ 'scaling.threshold': 'many' }), /^scaling\.threshold: /);
  assert.equal(
    error({ '@aws-cdk/core:newStyleStackSynthesis': true, 'aws:cdk:toolkit': 'x', 'availability-zones:account=1': [] }),
    '',
    "what is the library's",
  );
});

test('SET has any number of settings, whose values may have spaces in them', () => {
  const of = (set: string) => settingsOf(set).map(([name, value]) => `${name} is ${value}`);
  assert.deepEqual(of(''), []);
  assert.deepEqual(of(' pipeline.schedule=rate(10 minutes)  scaling.threshold=50000 '), [
    'pipeline.schedule is rate(10 minutes)',
    'scaling.threshold is 50000',
  ]);
  assert.deepEqual(of('pipeline.schedule=cron(0/10 * ? * MON-FRI *)'), [
    'pipeline.schedule is cron(0/10 * ? * MON-FRI *)',
  ]);
  assert.deepEqual(of(`alarms.emails=["a@example.com", "b=c@example.com"]\nstack.name=it's`), [
    'alarms.emails is ["a@example.com", "b=c@example.com"]',
    "stack.name is it's",
  ]);
  assert.deepEqual(of('service.image={"repository": "a/b", "tag": "v=1"} service.domainName=a.b.example.com'), [
    'service.image is {"repository": "a/b", "tag": "v=1"}',
    'service.domainName is a.b.example.com',
  ]);
  // A value may look like a setting where it is none, and in JSON even where it is one.
  assert.deepEqual(of('stack.tags={"note": "see scaling.threshold=1 \\" }"} alarms.emails=a.b=c@example.com'), [
    'stack.tags is {"note": "see scaling.threshold=1 \\" }"}',
    'alarms.emails is a.b=c@example.com',
  ]);
  assert.deepEqual(of('pipeline.schedule=rate(1 hour) no.group=1'), ['pipeline.schedule is rate(1 hour) no.group=1']);
  for (const bad of ['no.group=5', 'threshold=5', '5', 'x scaling.threshold=5', '=5'])
    assert.match(
      refused(() => of(bad)),
      /^SET: /,
      bad,
    );
  const context = { set: 'pipeline.schedule=rate(10 minutes) scaling.threshold=5', 'scaling.threshold': '6' };
  const { pipeline, scaling } = read(new App({ context }).node, temporary());
  assert.deepEqual([pipeline.schedule, scaling.threshold], ['rate(10 minutes)', 6], 'what is said for itself wins');
  // The CDK CLI gives text; a name is no JSON, even where it could be.
  for (const name of ['true', 'null']) {
    const named = new App({ context: { 'stack.name': name } }).node;
    assert.equal(read(named, temporary()).stack.name, name);
  }
});

test('docs/reference/settings.md has the table of the settings; UPDATE_SETTINGS=1 writes it', () => {
  const file = join(PROJECT, 'docs', 'reference', 'settings.md');
  const text = readFileSync(file, 'utf8');
  const [begin, end] = ['<!-- settings: begin -->', '<!-- settings: end -->'];
  const [before, rest, ...others] = text.split(begin);
  const [table, after] = rest?.split(end) ?? [];
  assert(after !== undefined && others.length === 0, `${begin} and ${end} stand there once each`);
  const expected = `\n\n${settingsTable()}\n\n`;
  if (process.env['UPDATE_SETTINGS']) writeFileSync(file, `${before}${begin}${expected}${end}${after}`);
  else assert.equal(table, expected);
  const rows = Object.entries(Schema.shape)
    .filter(([group]) => !['account', 'local'].includes(group))
    .flatMap(([group, inner]) => {
      const shape = (inner as any).def.innerType.shape as Record<string, { description?: string }>;
      for (const [name, { description }] of Object.entries(shape))
        assert(description, `${group}.${name} is not described`);
      return Object.keys(shape);
    });
  assert.equal(settingsTable().split('\n').length, rows.length + 2);
});
