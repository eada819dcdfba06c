/** The stacks that the tests look at: one for each way to set the system up, synthesized once and shared. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CfnElement, type App } from 'aws-cdk-lib';
import { withSettings } from '../lib/app.ts';
import { check, type Config, type Given } from '../lib/config.ts';
import type { Data } from '../lib/data.ts';
import { FUNCTIONS } from '../lib/functions.ts';
import type { System } from '../lib/system.ts';

/** A folder that goes when the tests end. */
export function temporary(): string {
  const folder = mkdtempSync(join(tmpdir(), 'efs-autoscale-cdk-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A folder with something in the place of each function's binary. */
export function binaries(): string {
  const folder = temporary();
  for (const name of FUNCTIONS) {
    mkdirSync(join(folder, name));
    writeFileSync(join(folder, name, 'bootstrap'), name);
  }
  mkdirSync(join(folder, 'file-service'));
  for (const file of ['bootstrap', 'Dockerfile']) writeFileSync(join(folder, 'file-service', file), file);
  return folder;
}

const IMAGE = { repository: 'efs-autoscale/router', tag: '1.2.3' };
const CERTIFICATE = 'arn:aws:acm:ap-northeast-1:123456789012:certificate/00000000-0000-0000-0000-000000000000';
const SUBNETS = ['a', 'c', 'd'].map((zone, index) => ({
  id: `subnet-0000000${index}`,
  zone: `ap-northeast-1${zone}`,
  routeTable: `rtb-0000000${index}`,
}));
const VPC = { vpc: 'vpc-00000000', cidr: '172.31.0.0/16', subnets: SUBNETS };
const FILE_SYSTEM = {
  fileSystem: 'fs-00000000',
  securityGroup: 'sg-00000001',
  targetSubnets: ['subnet-00000000', 'subnet-00000002'],
};

/** Every setting that changes what is made is in one of them. */
export const SETTINGS = {
  default: {},
  spot: {
    network: { zones: 4, cidr: '10.20.0.0/16', flowLogs: false },
    storage: { throughput: 'provisioned', provisionedMibps: 128 },
    scaling: { initialMountTargets: 3, threshold: 5000, rule: 'per-target', cooldownSeconds: 600, maxMountTargets: 4 },
    pipeline: {
      architecture: 'x86_64',
      scale: 'large',
      paused: true,
      schedule: 'rate(2 hours)',
      logDays: 30,
      namePrefix: 'files-',
      parameterType: 'SecureString',
    },
    service: {
      launch: 'fargate-spot',
      size: 'heavy',
      desiredCount: 4,
      maxCount: 20,
      cpuPercent: 50,
      requestsPerTask: 1000,
      image: IMAGE,
      certificateArn: CERTIFICATE,
    },
    audit: { trail: true },
    alarms: { emails: ['operations@example.com'] },
  },
  discovery: {
    storage: { throughput: 'bursting', requireIam: true, backup: false, retain: false, directory: '/srv/files' },
    pipeline: {
      scale: 'small',
      schedule: 'cron(0 * * * ? *)',
      pollIntervalSeconds: 5,
      pollTimeoutSeconds: 600,
      parameterName: '/files/targets',
    },
    service: {
      entry: 'service-discovery',
      size: 'light',
      clientCidrs: ['192.168.0.0/24'],
      domainName: 'data.files.internal',
    },
  },
  managed: {
    storage: { requireTls: false, performance: 'max-io', throughput: 'bursting' },
    service: { launch: 'managed-instances', backend: 'mounted', image: IMAGE, certificateArn: CERTIFICATE },
  },
  inVpc: {
    pipeline: { inVpc: true, countCacheSeconds: 600 },
    service: { image: IMAGE, certificateArn: CERTIFICATE },
  },
  /** As a platform team has it. */
  platform: {
    stack: {
      tags: { 'cost-center': '42' },
      permissionsBoundary: 'platform/boundary',
      encryptionKey: 'own',
    },
    pipeline: { countFullEvery: 12, otlpEndpoint: 'http://localhost:4318' },
    service: {
      otlpEndpoint: 'https://collector.example.com/otlp',
      image: { repository: 'files/router', digest: `sha256:${'0123456789abcdef'.repeat(4)}` },
      certificateArn: CERTIFICATE,
      accessLogs: 'own',
      exec: true,
    },
  },
  /** A later deployment of a service that runs. */
  later: {
    account: {
      serviceName: 'efs-mount-autoscaling-fargate',
      desiredCount: 7,
      zones: ['eu-west-1a', 'eu-west-1b', 'eu-west-1c'],
      lambdaConcurrency: 1000,
    },
    network: { zoneNames: ['eu-west-1a', 'eu-west-1c'] },
    pipeline: { reservedConcurrency: true, redeploy: 'never' },
    service: { image: IMAGE, certificateArn: CERTIFICATE },
  },
  restored: {
    storage: { existing: { fileSystem: 'fs-00000000' } },
    service: { image: IMAGE, certificateArn: CERTIFICATE },
  },
  adopted: {
    network: { existing: VPC, endpoints: false },
    scaling: { ipAddressType: 'DUAL_STACK' },
    storage: { existing: FILE_SYSTEM },
    service: { image: IMAGE, certificateArn: CERTIFICATE, hostedZone: false },
  },
  existing: {
    network: { existing: VPC },
    storage: { existing: FILE_SYSTEM },
    service: { existing: { cluster: 'theirs', name: 'files', securityGroup: 'sg-00000002' } },
    pipeline: { countCacheSeconds: 60 },
  },
} satisfies Record<string, Given>;
export type Name = keyof typeof SETTINGS;
export const NAMES = Object.keys(SETTINGS) as Name[];

export interface Resource {
  readonly id: string;
  readonly stack: string;
  /** Of its construct, in the stack. */
  readonly path: string;
  readonly type: string;
  /** Its properties as they are in the template. */
  readonly is: any;
  readonly dependsOn: string[];
  readonly deletion?: string;
}

export class World {
  readonly config: Config;
  readonly data: Data | undefined;
  readonly system: System;
  /** Of the system; and of each stack, by its name. */
  readonly template: any;
  readonly templates = new Map<string, any>();
  /** Of both stacks. */
  readonly resources: Resource[] = [];
  readonly warnings: string[] = [];
  /** The stages of the images that are built. */
  readonly images: (string | undefined)[];
  private readonly paths = new Map<string, string>();
  /** What one stack says to the other, by the parameter of the other's template. */
  private readonly shared = new Map<string, any>();

  constructor(given: Given) {
    const settings: Given = { ...given, pipeline: { ...given.pipeline, binaries: BINARIES } };
    this.config = check(settings);
    const folder = temporary();
    const { app, data, system } = withSettings(settings, folder);
    this.data = data;
    this.system = system;
    const assembly = synthesized(app, folder);
    const { dockerImages } = JSON.parse(readFileSync(join(folder, `${system.artifactId}.assets.json`), 'utf8'));
    this.images = Object.values<any>(dockerImages ?? {}).map(({ source }) => source.dockerBuildTarget);
    // The data first, as it is deployed.
    for (const stack of [data, system].filter((one) => one !== undefined)) {
      const artifact = assembly.getStackArtifact(stack.artifactId);
      this.templates.set(stack.stackName, artifact.template);
      this.warnings.push(
        ...artifact.messages.filter(({ level }) => level === 'warning').map(({ entry }) => String(entry.data)),
      );
      const paths = new Map<string, string>();
      for (const construct of stack.node.findAll()) {
        if (!CfnElement.isCfnElement(construct)) continue;
        const path = construct.node.path.slice(stack.node.path.length + 1).replace(/\/Resource$/, '');
        paths.set(stack.resolve(construct.logicalId), path);
      }
      const clash = [...paths].find(([id, path]) => this.paths.has(id) && this.paths.get(id) !== path);
      if (clash) throw new Error(`${clash[0]} is in both stacks`);
      paths.forEach((path, id) => this.paths.set(id, path));
      for (const [id, { Default }] of Object.entries<any>(artifact.template.Parameters ?? {})) {
        const published = this.resources.find(({ type, is }) => type === 'AWS::SSM::Parameter' && is.Name === Default);
        if (published) this.shared.set(id, published.is.Value);
      }
      for (const [id, { Type, Properties, DependsOn, DeletionPolicy }] of Object.entries<any>(
        artifact.template.Resources,
      )) {
        this.resources.push({
          id,
          stack: stack.stackName,
          path: this.paths.get(id) ?? id,
          type: Type,
          is: Properties ?? {},
          dependsOn: [DependsOn ?? []].flat().map((on) => this.paths.get(on) ?? on),
          deletion: DeletionPolicy,
        });
      }
    }
    this.template = assembly.getStackArtifact(system.artifactId).template;
  }

  /** All of a type, such as `EFS::MountTarget`. */
  all(type: string): Resource[] {
    return this.resources.filter((resource) => resource.type === (type.startsWith('Custom::') ? type : `AWS::${type}`));
  }

  /** The properties of the only one of a type. */
  one(type: string): any {
    const [found, ...others] = this.all(type);
    if (!found || others.length > 0) throw new Error(`${type}: ${others.length + (found ? 1 : 0)} of them`);
    return found.is;
  }

  /** The properties of what a construct has become. */
  at(path: string): any {
    const found = this.resources.find((resource) => resource.path === path);
    if (!found)
      throw new Error(`nothing at ${path}; there are ${this.resources.map((resource) => resource.path).join(', ')}`);
    return found.is;
  }

  /** A value of the template, with the paths of constructs for what only the deployment knows. */
  text(value: any): string {
    if (value === null || typeof value !== 'object') return String(value);
    // What the data stack publishes is read as what it is there.
    if (this.shared.has(value.Ref)) return this.text(this.shared.get(value.Ref));
    if ('Fn::Select' in value) {
      const [index, from] = value['Fn::Select'];
      const [separator, list] = from['Fn::Split'] ?? [];
      if (list && this.shared.has(list.Ref)) {
        const parts = this.shared.get(list.Ref)['Fn::Join'][1];
        return this.text(parts.filter((part: unknown) => part !== separator)[Number(index)]);
      }
    }
    if ('Ref' in value) return `<${this.paths.get(value.Ref) ?? value.Ref}>`;
    if ('Fn::GetAtt' in value) return `<${this.paths.get(value['Fn::GetAtt'][0])}.${value['Fn::GetAtt'][1]}>`;
    if ('Fn::Join' in value) return value['Fn::Join'][1].map((part: any) => this.text(part)).join(value['Fn::Join'][0]);
    if ('Fn::Sub' in value && typeof value['Fn::Sub'] === 'string')
      return value['Fn::Sub'].replaceAll('${', '<').replaceAll('}', '>');
    return JSON.stringify(value);
  }

  /** The rules of a security group, on either side: `to <Network/Targets.GroupId> 2049`. */
  rules(group: string): string[] {
    const named = (is: any) => this.text(is.GroupId) === `<${group}.GroupId>`;
    const rule = (way: 'from' | 'to', is: any) => {
      const peer = is.CidrIp ?? this.text(way === 'to' ? is.DestinationSecurityGroupId : is.SourceSecurityGroupId);
      return `${way} ${peer} ${is.IpProtocol} ${is.FromPort}${is.FromPort === is.ToPort ? '' : `-${is.ToPort}`}`;
    };
    // An empty list would be AWS's own rule, by which all may go out: this leads nowhere.
    const nothing = (is: any) => is.CidrIp === '255.255.255.255/32';
    const { SecurityGroupIngress = [], SecurityGroupEgress = [] } = this.at(group);
    return [
      ...SecurityGroupIngress.map((is: any) => rule('from', is)),
      ...SecurityGroupEgress.filter((is: any) => !nothing(is)).map((is: any) => rule('to', is)),
      ...this.all('EC2::SecurityGroupIngress')
        .filter(({ is }) => named(is))
        .map(({ is }) => rule('from', is)),
      ...this.all('EC2::SecurityGroupEgress')
        .filter(({ is }) => named(is))
        .map(({ is }) => rule('to', is)),
    ].sort();
  }
}

/** Throws what cdk-nag has found, if anything. */
function synthesized(app: App, folder: string) {
  try {
    return app.synth();
  } catch (error) {
    const report = join(folder, 'validation-report.json');
    if (!existsSync(report)) throw error;
    const found = JSON.parse(readFileSync(report, 'utf8')).pluginReports.flatMap((plugin: any) => plugin.violations);
    const lines = found.map(
      (one: any) => `${one.ruleName} at ${one.violatingConstructs.map((at: any) => at.constructPath).join(', ')}`,
    );
    throw new Error(`cdk-nag has found\n${lines.join('\n')}`);
  }
}

const BINARIES = binaries();
const made = new Map<Name, World>();

export function world(name: Name): World {
  let known = made.get(name);
  if (!known) {
    known = new World(SETTINGS[name]);
    made.set(name, known);
    // For `make test-cdk`, which shows them to cfn-lint.
    const folder = process.env['TEMPLATES'];
    for (const [stack, template] of folder ? known.templates : []) {
      writeFileSync(join(folder as string, `${name}.${stack}.json`), JSON.stringify(template));
    }
  }
  return known;
}
