/**
 * What each function may call: exactly what its code calls, and what AWS asks for behind that. The test beside this takes
 * the calls from the Rust sources and compares.
 */
import { Stack, Validations } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import type { Construct, IConstruct } from 'constructs';
import type { Config } from './config.ts';
import type { FunctionName } from './functions.ts';
import type { Network } from './network.ts';
import { subnetArn, type Storage } from './storage.ts';

export interface World {
  readonly network: Network;
  readonly storage: Storage;
  readonly service: { readonly arn: string };
}

/** Actions that no code calls, and why somebody needs them all the same. A test finds those that nobody has. */
export const INDIRECT_ACTIONS: Record<
  FunctionName | 'everyFunction' | 'inVpc' | 'exec' | 'tasks',
  Record<string, string>
> = {
  everyFunction: {
    'logs:CreateLogStream': "Lambda writes what the function says, in the role's name",
    'logs:PutLogEvents': "Lambda writes what the function says, in the role's name",
    'xray:PutTraceSegments': "Lambda traces each request, in the role's name",
    'xray:PutTelemetryRecords': "Lambda traces each request, in the role's name",
  },
  inVpc: {
    'ec2:CreateNetworkInterface': "Lambda attaches the function to the VPC in the role's name",
    'ec2:DescribeNetworkInterfaces': "Lambda attaches the function to the VPC in the role's name",
    'ec2:DescribeSubnets': "Lambda attaches the function to the VPC in the role's name",
    'ec2:DeleteNetworkInterface': "Lambda attaches the function to the VPC in the role's name",
    'ec2:AssignPrivateIpAddresses': "Lambda attaches the function to the VPC in the role's name",
    'ec2:UnassignPrivateIpAddresses': "Lambda attaches the function to the VPC in the role's name",
  },
  count: {
    'elasticfilesystem:ClientMount': 'Lambda mounts the file system in the name of the function',
    'elasticfilesystem:ClientRootAccess': 'the access point reads as root, which EFS turns into nobody without this',
  },
  evaluate: {},
  'create-target': {
    'ec2:DescribeSubnets': 'EFS asks it of whoever creates a mount target',
    'ec2:DescribeNetworkInterfaces': 'EFS asks it of whoever creates a mount target',
    'ec2:CreateNetworkInterface': 'EFS asks it of whoever creates a mount target',
  },
  'poll-available': {},
  // Nothing of KMS for a SecureString: it is encrypted with the account's `aws/ssm`, whose own policy lets whoever may
  // use the parameter.
  'publish-ssm': {},
  redeploy: {},
  exec: {
    'ssmmessages:CreateControlChannel':
      'with `service.exec` the agent of ECS Exec speaks to Systems Manager in the name of the task',
    'ssmmessages:CreateDataChannel':
      'with `service.exec` the agent of ECS Exec speaks to Systems Manager in the name of the task',
    'ssmmessages:OpenControlChannel':
      'with `service.exec` the agent of ECS Exec speaks to Systems Manager in the name of the task',
    'ssmmessages:OpenDataChannel':
      'with `service.exec` the agent of ECS Exec speaks to Systems Manager in the name of the task',
  },
  tasks: {
    'elasticfilesystem:ClientMount': 'with `storage.requireIam` the NFS client comes in the name of the task',
    'elasticfilesystem:ClientWrite': 'with `storage.requireIam` the NFS client comes in the name of the task',
  },
};

/** Why an action has no resource of its own; a test asks for a reason for each. */
export const ACTIONS_WITHOUT_RESOURCE: Record<string, string> = {
  'ec2:DescribeSubnets': 'EC2 has no resources for it',
  'ec2:DescribeNetworkInterfaces': 'EC2 has no resources for it',
  'ecr:GetAuthorizationToken': 'ECR has no resources for it',
  'ecs:DiscoverPollEndpoint': 'ECS has no resources for it',
  'xray:PutTraceSegments': 'X-Ray has no resources for it',
  'xray:PutTelemetryRecords': 'X-Ray has no resources for it',
  'xray:GetSamplingRules': 'X-Ray has no resources for it',
  'xray:GetSamplingTargets': 'X-Ray has no resources for it',
  'ssmmessages:CreateControlChannel': 'Systems Manager has no resources for it',
  'ssmmessages:CreateDataChannel': 'Systems Manager has no resources for it',
  'ssmmessages:OpenControlChannel': 'Systems Manager has no resources for it',
  'ssmmessages:OpenDataChannel': 'Systems Manager has no resources for it',
  'logs:CreateLogDelivery': 'the delivery of logs has no resources',
  'logs:GetLogDelivery': 'the delivery of logs has no resources',
  'logs:UpdateLogDelivery': 'the delivery of logs has no resources',
  'logs:DeleteLogDelivery': 'the delivery of logs has no resources',
  'logs:ListLogDeliveries': 'the delivery of logs has no resources',
  'logs:PutResourcePolicy': 'the delivery of logs has no resources',
  'logs:DescribeResourcePolicies': 'the delivery of logs has no resources',
  'logs:DescribeLogGroups': 'the delivery of logs has no resources',
};

/** Resources of which a part is a wildcard, as cdk-nag writes them, and why. */
export function wildcards({ pipeline, network }: Config): Record<string, string> {
  const { parameterName } = pipeline;
  const subnets = network.existing?.subnets ?? [];
  const arn = (service: string, resource: string) =>
    `arn:<AWS::Partition>:${service}:<AWS::Region>:<AWS::AccountId>:${resource}`;
  return {
    [arn('ec2', 'network-interface/*')]:
      'an interface has no id before it is there; its subnet and its security group are named',
    ...Object.fromEntries(
      subnets.map(({ id }) => [
        `arn:<AWS::Partition>:ec2:<AWS::Region>:*:subnet/${id}`,
        'the subnet may be shared by another account, which then stands in its ARN',
      ]),
    ),
    [arn('ec2', '*/*')]:
      'as the Lambda Developer Guide has it: Lambda makes the interfaces, and asks for all of the account; denied to the code itself',
    [arn('ssm', `parameter${parameterName}/created/*`)]: 'a parameter for each zone, of which EFS says the id',
    [arn('ssm', `parameter${parameterName}/intended/*`)]: 'a parameter for each zone, of which EFS says the id',
    [arn('ssm', `parameter${parameterName}/refused/*`)]: 'a parameter for each zone, of which EFS says the id',
    [arn('acm', 'certificate/*')]: 'a certificate has no ARN before it is there; only those with the tag of this stack',
    [arn('ecs', 'container-instance/*')]: 'an instance has no id before it is there, and this is said by itself',
  };
}

/** Says of a role, or of a construct that makes roles, why resources in it are wildcards. */
export function explainWildcards(scope: IConstruct, config: Config) {
  const reasons = {
    '*': [...new Set(Object.values(ACTIONS_WITHOUT_RESOURCE))].join('; '),
    ...wildcards(config),
  };
  for (const [resource, reason] of Object.entries(reasons)) {
    Validations.of(scope).acknowledge({ id: `AwsSolutions-IAM5[Resource::${resource}]`, reason });
  }
}

export function allow(actions: string[], resources: string[], conditions?: Record<string, unknown>) {
  return new iam.PolicyStatement({ actions, resources, conditions });
}

/** The ARN of a parameter, or of those below it. */
export function parameterArn(scope: Construct, name: string) {
  return Stack.of(scope).formatArn({ service: 'ssm', resource: `parameter${name}` });
}

export function permissions(
  scope: Construct,
  config: Config,
  world: World,
): Record<FunctionName, iam.PolicyStatement[]> {
  const { network, storage } = world;
  const stack = Stack.of(scope);
  const name = config.pipeline.parameterName;
  // The ledger's names, as `crates/domain/src/ledger.rs` has them.
  const below = (suffix: string) => parameterArn(scope, name + suffix);
  const [published, deployed, counted] = [below(''), below('/deployed'), below('/counted')];
  const [created, intended, refused] = [below('/created/*'), below('/intended/*'), below('/refused/*')];
  const fileSystem = [storage.fileSystem.fileSystemArn];
  const service = [world.service.arn];
  const describeTargets = allow(['elasticfilesystem:DescribeMountTargets'], fileSystem);
  const ec2 = (resource: string, resourceName: string) => stack.formatArn({ service: 'ec2', resource, resourceName });
  const interfaces = ec2('network-interface', '*');

  const cache = [allow(['ssm:GetParameters', 'ssm:PutParameter'], [counted])];
  return {
    count: [
      allow(['elasticfilesystem:ClientMount', 'elasticfilesystem:ClientRootAccess'], fileSystem, {
        StringEquals: { 'elasticfilesystem:AccessPointArn': storage.counting.accessPointArn },
      }),
      ...(config.pipeline.countCacheSeconds > 0 ? cache : []),
    ],
    evaluate: [
      describeTargets,
      allow(['elasticfilesystem:DescribeFileSystems'], fileSystem),
      allow(['ec2:DescribeSubnets'], ['*']),
      allow(['ssm:GetParameters'], [published, deployed, created, intended, refused]),
      allow(['ecs:DescribeServices'], service),
    ],
    'create-target': [
      describeTargets,
      allow(['elasticfilesystem:CreateMountTarget'], fileSystem),
      allow(['ec2:DescribeSubnets', 'ec2:DescribeNetworkInterfaces'], ['*']),
      allow(
        ['ec2:CreateNetworkInterface'],
        [
          interfaces,
          ...network.subnets.map((subnet) => subnetArn(scope, config, subnet.subnetId)),
          ec2('security-group', network.targets.securityGroupId),
        ],
      ),
      allow(['ssm:GetParameters', 'ssm:PutParameter'], [created, intended, refused]),
      allow(['ssm:DeleteParameter'], [intended]),
    ],
    'poll-available': [describeTargets],
    'publish-ssm': [
      describeTargets,
      allow(['ssm:GetParameters'], [published, deployed]),
      allow(['ssm:PutParameter'], [published]),
      allow(['ssm:DeleteParameter'], [deployed]),
    ],
    redeploy: [
      allow(['ecs:DescribeServices', 'ecs:UpdateService'], service),
      allow(['ssm:GetParameters'], [published, deployed]),
      allow(['ssm:PutParameter'], [deployed]),
    ],
  };
}

/** What Lambda itself does in the name of a function in the VPC, and the function's own code may not. */
export function vpcAttachmentStatements(
  scope: Construct,
  config: Config,
  network: Network,
  name: FunctionName,
  functionArn: string,
): iam.PolicyStatement[] {
  const stack = Stack.of(scope);
  const ec2 = (resource: string, resourceName: string) => stack.formatArn({ service: 'ec2', resource, resourceName });
  const itsOwn = ['ec2:DeleteNetworkInterface', 'ec2:AssignPrivateIpAddresses', 'ec2:UnassignPrivateIpAddresses'];
  // EFS makes the interface of a mount target in the name of the code that asks for one.
  const denied = name === 'create-target' ? itsOwn : ['ec2:CreateNetworkInterface', ...itsOwn];
  return [
    allow(['ec2:DescribeNetworkInterfaces', 'ec2:DescribeSubnets'], ['*']),
    allow(itsOwn, [ec2('*', '*')]),
    allow(
      ['ec2:CreateNetworkInterface'],
      [
        ec2('network-interface', '*'),
        ...network.subnets.map((subnet) => subnetArn(scope, config, subnet.subnetId)),
        ec2('security-group', network.functions.securityGroupId),
      ],
    ),
    new iam.PolicyStatement({
      sid: 'NotTheCodeItself',
      effect: iam.Effect.DENY,
      actions: denied,
      resources: ['*'],
      conditions: { ArnEquals: { 'lambda:SourceFunctionArn': [functionArn] } },
    }),
  ];
}
