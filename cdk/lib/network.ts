/** The network: private subnets, one for each zone, and who may speak to whom. No way to the internet and none back. */
import { Fn, Stack, Validations } from 'aws-cdk-lib';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as iam from 'aws-cdk-lib/aws-iam';
import { Construct, DependencyGroup } from 'constructs';
import type { Config } from './config.ts';
import { createLogGroup } from './logs.ts';

/** The port of NFS. */
export const NFS = ec2.Port.tcp(2049);
const HTTPS = ec2.Port.tcp(443);

/** Where the service listens, in the task. */
export const SERVICE_PORT = 8443;

/** x.y.1.0/24, x.y.2.0/24 and so on: the original design's, and the same in every account. */
function fixedSubnetCidrs(cidr: string): ec2.IIpAddresses {
  const [first, second] = cidr.split('.');
  return {
    allocateVpcCidr: () => ({ cidrBlock: cidr }),
    allocateSubnetsCidr: ({ requestedSubnets }) => ({
      allocatedSubnets: requestedSubnets.map((_, index) => ({ cidr: `${first}.${second}.${index + 1}.0/24` })),
    }),
  };
}

/** What outlives the system: where the mount targets are, and who is one. */
export class DataNetwork extends Construct {
  readonly vpc: ec2.IVpc;
  /** One for each zone, in the order of the zones. */
  readonly subnets: ec2.ISubnet[];
  readonly cidr: string;
  /** Of the file system's mount targets. */
  readonly targets: ec2.ISecurityGroup;

  constructor(scope: Construct, id: string, config: Config) {
    super(scope, id);
    const { existing } = config.network;
    this.vpc = existing ? this.importVpc(existing) : this.createVpc(config);
    this.cidr = existing?.cidr ?? config.network.cidr;
    this.subnets = this.vpc.privateSubnets.length > 0 ? this.vpc.privateSubnets : this.vpc.isolatedSubnets;
    const theirs = config.storage.existing?.securityGroup;
    this.targets = theirs
      ? ec2.SecurityGroup.fromSecurityGroupId(this, 'Targets', theirs)
      : new ec2.SecurityGroup(this, 'Targets', {
          vpc: this.vpc,
          description: 'EFS mount targets: from functions and tasks, nothing out',
          allowAllOutbound: false,
        });
  }

  private importVpc(existing: NonNullable<Config['network']['existing']>) {
    const routeTables = existing.subnets.map((subnet) => subnet.routeTable ?? '');
    return ec2.Vpc.fromVpcAttributes(this, 'Vpc', {
      vpcId: existing.vpc,
      vpcCidrBlock: existing.cidr,
      availabilityZones: existing.subnets.map((subnet) => subnet.zone),
      privateSubnetIds: existing.subnets.map((subnet) => subnet.id),
      ...(routeTables.every((table) => table !== '') && { privateSubnetRouteTableIds: routeTables }),
    });
  }

  private createVpc(config: Config) {
    const vpc = new ec2.Vpc(this, 'Vpc', {
      ipAddresses: fixedSubnetCidrs(config.network.cidr),
      // Else by their number: which zones an account has is known when it is deployed, not before.
      availabilityZones:
        config.network.zoneNames ??
        Array.from({ length: config.network.zones }, (_, index) => Fn.select(index, Fn.getAzs())),
      subnetConfiguration: [{ name: 'Private', subnetType: ec2.SubnetType.PRIVATE_ISOLATED, cidrMask: 24 }],
    });
    if (config.network.flowLogs) {
      vpc.addFlowLog('Flows', {
        destination: ec2.FlowLogDestination.toCloudWatchLogs(createLogGroup(this, 'FlowLogs', config)),
        maxAggregationInterval: ec2.FlowLogMaxAggregationInterval.TEN_MINUTES,
      });
    } else {
      Validations.of(vpc).acknowledge({
        id: 'AwsSolutions-VPC7',
        reason: 'chosen by network.flowLogs: they cost by the gigabyte',
      });
    }
    return vpc;
  }
}

/** Who speaks to the mount targets and to AWS, and the ways that lead there. */
export class Network extends Construct {
  readonly vpc: ec2.IVpc;
  readonly subnets: ec2.ISubnet[];
  readonly cidr: string;
  readonly targets: ec2.ISecurityGroup;
  /** Of `count`, and of every function in the VPC. */
  readonly functions: ec2.SecurityGroup;
  /** Of the file service's tasks. */
  readonly tasks: ec2.ISecurityGroup;
  /** What has to be there before anything runs in the network: whoever is first would reach nothing, and fail. */
  readonly ready = new DependencyGroup();

  constructor(scope: Construct, id: string, config: Config, data: DataNetwork) {
    super(scope, id);
    ({ vpc: this.vpc, subnets: this.subnets, cidr: this.cidr, targets: this.targets } = data);
    this.functions = this.group('Functions', 'Functions: to EFS and to AWS, nothing in');
    this.tasks = config.service.existing
      ? ec2.SecurityGroup.fromSecurityGroupId(this, 'Tasks', config.service.existing.securityGroup)
      : this.group('Tasks', 'Tasks of the file service: to EFS and to AWS');
    for (const [name, client] of Object.entries({ functions: this.functions, tasks: this.tasks })) {
      // A service and a file system that are there have met: a second rule like theirs would be refused.
      if (client === this.tasks && config.service.existing && config.storage.existing?.securityGroup) continue;
      client.addEgressRule(this.targets, NFS, 'NFS to EFS');
      client.addEgressRule(ec2.Peer.anyIpv4(), HTTPS, 'AWS, by its endpoints');
      const rule = new ec2.CfnSecurityGroupIngress(this, `TargetsFrom${name}`, {
        groupId: this.targets.securityGroupId,
        sourceSecurityGroupId: client.securityGroupId,
        ipProtocol: 'tcp',
        fromPort: 2049,
        toPort: 2049,
        description: `NFS from ${name}`,
      });
      this.ready.add(rule);
    }
    this.ready.add(this.functions, this.tasks);
    if (config.network.endpoints) this.endpoints(config);
  }

  private group(id: string, description: string) {
    return new ec2.SecurityGroup(this, id, { vpc: this.vpc, description, allowAllOutbound: false });
  }

  /** Of what is called from within the VPC, and of nothing else: each costs by the hour and the zone. */
  private endpoints(config: Config) {
    const services: Record<string, boolean> = {
      SSM: true,
      ELASTIC_FILESYSTEM: !config.service.existing || config.pipeline.inVpc,
      ECR: !config.service.existing,
      ECR_DOCKER: !config.service.existing,
      CLOUDWATCH_LOGS: !config.service.existing,
      SECRETS_MANAGER: !config.service.existing,
      SSM_MESSAGES: config.service.exec && !config.service.existing,
      EC2: config.pipeline.inVpc,
      ECS: config.pipeline.inVpc || config.service.launch === 'managed-instances',
      ECS_AGENT: config.service.launch === 'managed-instances',
      ECS_TELEMETRY: config.service.launch === 'managed-instances',
    };
    // `count` speaks to Systems Manager only where counts are used again.
    services.SSM &&= !config.service.existing || config.pipeline.inVpc || config.pipeline.countCacheSeconds > 0;
    const used = Object.keys(services).filter((name) => services[name]);
    if (used.length === 0) return;

    const group = this.group('Endpoints', 'VPC endpoints: from functions and tasks');
    for (const client of [this.functions, this.tasks]) group.addIngressRule(client, HTTPS, 'AWS calls');
    this.ready.add(group);
    for (const name of used) {
      const service = ec2.InterfaceVpcEndpointAwsService[
        name as keyof typeof ec2.InterfaceVpcEndpointAwsService
      ] as ec2.InterfaceVpcEndpointAwsService;
      const endpoint = new ec2.InterfaceVpcEndpoint(this, `Endpoint${name}`, {
        vpc: this.vpc,
        service,
        subnets: { subnets: this.subnets },
        securityGroups: [group],
        // The rule above says who.
        open: false,
      });
      this.ready.add(endpoint);
    }
    // The layers of images are in a bucket of ECR's, and this leads to no other.
    if (used.includes('ECR') && !config.network.existing?.subnets.some((subnet) => !subnet.routeTable)) {
      const layers = new ec2.GatewayVpcEndpoint(this, 'EndpointS3', {
        vpc: this.vpc,
        service: ec2.GatewayVpcEndpointAwsService.S3,
        subnets: [{ subnets: this.subnets }],
      });
      const { region, partition } = Stack.of(this);
      layers.addToPolicy(
        new iam.PolicyStatement({
          principals: [new iam.AnyPrincipal()],
          actions: ['s3:GetObject'],
          resources: [`arn:${partition}:s3:::prod-${region}-starport-layer-bucket/*`],
        }),
      );
      this.ready.add(layers);
    }
  }
}
