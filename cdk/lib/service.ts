/** The file service: tasks in every zone, what leads to them, and how many there are. Or one that is there already. */
import { Duration, RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import { Platform } from 'aws-cdk-lib/aws-ecr-assets';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as ecr from 'aws-cdk-lib/aws-ecr';
import * as ecs from 'aws-cdk-lib/aws-ecs';
import * as elb from 'aws-cdk-lib/aws-elasticloadbalancingv2';
import * as route53 from 'aws-cdk-lib/aws-route53';
import { LoadBalancerTarget } from 'aws-cdk-lib/aws-route53-targets';
import * as secrets from 'aws-cdk-lib/aws-secretsmanager';
import * as discovery from 'aws-cdk-lib/aws-servicediscovery';
import { Construct } from 'constructs';
import { Certificate } from './certificate/index.ts';
import type { Config } from './config.ts';
import { binary } from './binaries.ts';
import { createLogGroup } from './logs.ts';
import { SERVICE_PORT, type Network } from './network.ts';
import { allow, explainWildcards, parameterArn } from './permissions.ts';
import { accessLogs, encryptionKey } from './platform.ts';
import { OWNER, type Storage } from './storage.ts';

/** The original design's table: units of a processor, and MiB. */
const SIZES = { light: [512, 1024], standard: [2048, 4096], heavy: [4096, 8192] } as const;
const CONTAINER = 'file-service';
/** A task reads the published list again this often: a GetParameters call a minute costs nothing, and a task that missed a
 * redeployment uses a new target a minute later. */
const REFRESH_SECONDS = 60;

export interface ServiceProps {
  readonly network: Network;
  readonly storage: Storage;
}

/** What clients reach the tasks by. */
interface Entry {
  readonly url: string;
  readonly balancer?: elb.ApplicationLoadBalancer;
  readonly tasks?: elb.ApplicationTargetGroup;
}

function serviceArn(scope: Construct, cluster: string, name: string) {
  return Stack.of(scope).formatArn({ service: 'ecs', resource: 'service', resourceName: `${cluster}/${name}` });
}

/**
 * How many tasks the template asks for. At the first deployment none: nothing has shown yet that they get healthy here.
 * Of a service that runs, nothing is said: auto scaling has made of it what it should be, and an update would undo that.
 * One that takes the place of another, since its launch type changes, has as many as that.
 */
function tasks(
  { account, local, service: { desiredCount } }: Config,
  name: string,
): { wanted?: number; least: number } {
  const now = account?.desiredCount ?? null;
  if (desiredCount === 0 || (now === null && !local)) return { wanted: 0, least: 0 };
  if (now && account?.serviceName === name) return { least: desiredCount };
  return { wanted: Math.max(now ?? 0, desiredCount), least: desiredCount };
}

export class Service extends Construct {
  readonly arn: string;
  readonly cluster: string;
  readonly name: string;
  /** Where clients reach it. */
  readonly url?: string;
  /** What clients have to show. */
  readonly token?: secrets.Secret;
  readonly ownService?: ecs.FargateService | ecs.Ec2Service;
  /** What its tasks run on, where that is not Fargate. */
  capacityProvider?: string;
  readonly balancer?: elb.ApplicationLoadBalancer;
  readonly tasks?: elb.ApplicationTargetGroup;

  constructor(scope: Construct, id: string, config: Config, props: ServiceProps) {
    super(scope, id);
    const { existing } = config.service;
    if (existing) {
      this.cluster = existing.cluster;
      this.name = existing.name;
      this.arn = serviceArn(this, existing.cluster, existing.name);
      return;
    }
    const { network } = props;
    // Names of our own: whoever names them here does not wait for them. What CloudFormation can only replace is part
    // of the service's name, since two services of one name cannot be there at once.
    this.cluster = `${config.stack.name}-cluster`;
    this.name = `${config.stack.name}-${config.service.launch}`;
    this.arn = serviceArn(this, this.cluster, this.name);
    const cluster = new ecs.Cluster(this, 'Cluster', {
      vpc: network.vpc,
      clusterName: this.cluster,
      containerInsightsV2: ecs.ContainerInsights.ENABLED,
      enableFargateCapacityProviders: config.service.launch === 'fargate-spot',
    });
    this.token = new secrets.Secret(this, 'Token', {
      description: 'AUTH_TOKEN of the file service',
      encryptionKey: encryptionKey(this, config),
      generateSecretString: { passwordLength: 48, excludePunctuation: true },
      removalPolicy: RemovalPolicy.DESTROY,
    });
    Validations.of(this.token).acknowledge({
      id: 'AwsSolutions-SMG4',
      reason: 'whoever has the token has to be given the new one: docs/how-to/deploy.md says how it is changed',
    });
    const task = this.task(config, props);
    const service = this.run(config, network, cluster, task);
    // A task that can load no image or reaches no target ends, and a few of those are a failed deployment. With the
    // cluster come its capacity providers, which the service may not name before.
    service.node.addDependency(cluster, network.ready, props.storage.fileSystem.mountTargetsAvailable);
    this.ownService = service;
    Object.assign(this, this.createEntryPoint(config, network, service));
  }

  private task(config: Config, { storage }: ServiceProps): ecs.TaskDefinition {
    const [cpu, memory] = SIZES[config.service.size];
    const managed = config.service.launch === 'managed-instances';
    const arm = config.pipeline.architecture === 'arm64';
    const task = new ecs.TaskDefinition(this, 'Task', {
      compatibility: managed ? ecs.Compatibility.MANAGED_INSTANCES : ecs.Compatibility.FARGATE,
      networkMode: ecs.NetworkMode.AWS_VPC,
      cpu: String(cpu),
      memoryMiB: String(memory),
      runtimePlatform: {
        cpuArchitecture: arm ? ecs.CpuArchitecture.ARM64 : ecs.CpuArchitecture.X86_64,
        operatingSystemFamily: ecs.OperatingSystemFamily.LINUX,
      },
    });
    const mounts = config.service.backend === 'mounted';
    const linuxParameters = new ecs.LinuxParameters(this, 'Linux');
    linuxParameters.dropCapabilities(ecs.Capability.ALL);
    if (mounts) linuxParameters.addCapabilities(ecs.Capability.SYS_ADMIN);
    const log = createLogGroup(this, 'Log', config, `/ecs/${config.stack.name}`);
    const container = task.addContainer(CONTAINER, {
      image: this.image(config, arm),
      command: ['serve'],
      environment: this.environment(config, storage),
      secrets: { AUTH_TOKEN: ecs.Secret.fromSecretsManager(this.token as secrets.Secret) },
      logging: ecs.LogDrivers.awsLogs({ logGroup: log, streamPrefix: CONTAINER }),
      portMappings: [{ containerPort: SERVICE_PORT }],
      healthCheck: {
        command: ['CMD', '/file-service', 'healthy'],
        interval: Duration.seconds(10),
        retries: 3,
        startPeriod: Duration.seconds(60),
      },
      // It finishes what runs, for SHUTDOWN_SECONDS.
      stopTimeout: Duration.seconds(30),
      readonlyRootFilesystem: !mounts && !config.service.exec,
      user: mounts ? '0:0' : `${OWNER}:${OWNER}`,
      linuxParameters,
    });
    if (mounts) container.addUlimits({ name: ecs.UlimitName.NOFILE, softLimit: 65536, hardLimit: 65536 });

    // The key's own policy may not know this role.
    encryptionKey(this, config)?.grantDecrypt(task.obtainExecutionRole());
    const published = parameterArn(this, config.pipeline.parameterName);
    task.addToTaskRolePolicy(allow(['ssm:GetParameters'], [published]));
    task.addToTaskRolePolicy(allow(['elasticfilesystem:DescribeMountTargets'], [storage.fileSystem.fileSystemArn]));
    if (config.storage.requireIam && storage.serving) {
      task.addToTaskRolePolicy(
        allow(['elasticfilesystem:ClientMount', 'elasticfilesystem:ClientWrite'], [storage.fileSystem.fileSystemArn], {
          StringEquals: { 'elasticfilesystem:AccessPointArn': storage.serving.accessPointArn },
        }),
      );
    }
    Validations.of(task).acknowledge({
      id: 'AwsSolutions-ECS2',
      reason: "names of the system's own parts; what is secret is a secret",
    });
    explainWildcards(task, config);
    return task;
  }

  private image(config: Config, arm: boolean): ecs.ContainerImage {
    const { image } = config.service;
    if (image?.uri) return ecs.ContainerImage.fromRegistry(image.uri);
    if (image?.repository) {
      const repository = ecr.Repository.fromRepositoryName(this, 'Repository', image.repository);
      return ecs.ContainerImage.fromEcrRepository(repository, image.digest ?? image.tag);
    }
    return ecs.ContainerImage.fromAsset(binary('file-service', config), {
      target: config.service.backend === 'mounted' ? 'mounted' : 'nfs',
      platform: arm ? Platform.LINUX_ARM64 : Platform.LINUX_AMD64,
    });
  }

  private environment(config: Config, storage: Storage): Record<string, string> {
    const backend: Record<string, string> = storage.serving
      ? {
          BACKEND: 'nfs',
          // Whether or not EFS asks for it: the access point, which makes the directory, is asked for in the certificate.
          NFS_TLS: 'efs',
          EFS_ACCESS_POINT_ID: storage.serving.accessPointId,
          ...(config.storage.requireIam && { NFS_IAM: '1' }),
          // One to each target at first, and more while another one brings throughput.
          CONNECTIONS_PER_TARGET: 'auto',
        }
      : { BACKEND: 'mounted', MOUNT: 'kernel' };
    return {
      ...backend,
      AWS_REGION: Stack.of(this).region,
      EFS_FILE_SYSTEM_ID: storage.fileSystem.fileSystemId,
      SSM_PARAMETER_NAME: config.pipeline.parameterName,
      REFRESH_SECONDS: String(REFRESH_SECONDS),
      LISTEN: `0.0.0.0:${SERVICE_PORT}`,
      // The token does not cross the VPC in the clear, not on its last hop either.
      LISTEN_TLS: 'made',
      METRICS: 'emf',
      ...(config.service.otlpEndpoint && { OTEL_EXPORTER_OTLP_ENDPOINT: config.service.otlpEndpoint }),
    };
  }

  private run(config: Config, network: Network, cluster: ecs.Cluster, task: ecs.TaskDefinition) {
    const { launch } = config.service;
    const common = {
      cluster,
      serviceName: this.name,
      taskDefinition: task,
      desiredCount: tasks(config, this.name).wanted,
      minHealthyPercent: 100,
      maxHealthyPercent: 200,
      circuitBreaker: { enable: true, rollback: true },
      enableExecuteCommand: config.service.exec,
      vpcSubnets: { subnets: network.subnets },
      securityGroups: [network.tasks],
      ...(config.service.entry === 'load-balancer' && { healthCheckGracePeriod: Duration.seconds(60) }),
    };
    if (launch === 'managed-instances') {
      const provider = new ecs.ManagedInstancesCapacityProvider(this, 'Instances', {
        subnets: network.subnets,
        securityGroups: [network.tasks as ec2.SecurityGroup],
      });
      cluster.addManagedInstancesCapacityProvider(provider);
      this.capacityProvider = provider.capacityProviderName;
      Validations.of(provider).acknowledge({
        id: 'AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/AmazonECSInfrastructureRolePolicyForManagedInstances]',
        reason: 'the policy that ECS asks for, which changes with what it does',
      });
      explainWildcards(provider, config);
      const strategies = [{ capacityProvider: provider.capacityProviderName, weight: 1 }];
      const service = new ecs.FargateService(this, 'FileService', {
        ...common,
        capacityProviderStrategies: strategies,
      });
      service.node.addDependency(provider);
      return service;
    }
    const spot = [
      { capacityProvider: 'FARGATE', base: 1, weight: 0 },
      { capacityProvider: 'FARGATE_SPOT', weight: 1 },
    ];
    return new ecs.FargateService(this, 'FileService', {
      ...common,
      platformVersion: ecs.FargatePlatformVersion.LATEST,
      ...(launch === 'fargate-spot' && { capacityProviderStrategies: spot }),
    });
  }

  /** What leads clients to the tasks, and the address under which. */
  private createEntryPoint(config: Config, network: Network, service: ecs.FargateService): Entry {
    const { domainName, clientCidrs } = config.service;
    const clients = (clientCidrs.length > 0 ? clientCidrs : [network.cidr]).map((cidr) => ec2.Peer.ipv4(cidr));
    const scaling = service.autoScaleTaskCount({
      minCapacity: tasks(config, this.name).least,
      maxCapacity: config.service.maxCount,
    });
    scaling.scaleOnCpuUtilization('Cpu', { targetUtilizationPercent: config.service.cpuPercent });

    const [first = '', ...rest] = domainName.split('.');
    if (config.service.entry === 'service-discovery') {
      const namespace = new discovery.PrivateDnsNamespace(this, 'Names', { name: rest.join('.'), vpc: network.vpc });
      service.enableCloudMap({
        cloudMapNamespace: namespace,
        name: first,
        dnsRecordType: discovery.DnsRecordType.A,
        dnsTtl: Duration.seconds(10),
      });
      for (const peer of clients) network.tasks.addIngressRule(peer, ec2.Port.tcp(SERVICE_PORT), 'clients');
      return { url: `https://${domainName}:${SERVICE_PORT}` };
    }
    const group = new ec2.SecurityGroup(this, 'Entry', {
      vpc: network.vpc,
      description: 'The load balancer: from clients, to tasks',
      allowAllOutbound: false,
    });
    for (const peer of clients) group.addIngressRule(peer, ec2.Port.tcp(443), 'clients');
    const balancer = new elb.ApplicationLoadBalancer(this, 'Balancer', {
      vpc: network.vpc,
      vpcSubnets: { subnets: network.subnets },
      internetFacing: false,
      securityGroup: group,
      dropInvalidHeaderFields: true,
      // A large file may take this long.
      idleTimeout: Duration.seconds(120),
    });
    const logs = accessLogs(this, config);
    if (logs) {
      // Not by the library's own way, which has to know the region.
      balancer.setAttribute('access_logs.s3.enabled', 'true');
      balancer.setAttribute('access_logs.s3.bucket', logs.bucket);
      // It writes a first object at once.
      if (logs.ready) balancer.node.addDependency(logs.ready);
    } else {
      Validations.of(balancer).acknowledge({
        id: 'AwsSolutions-ELB2',
        reason:
          'chosen by service.accessLogs; the service logs its operations itself (ACCESS_LOG), with the target of each',
      });
    }
    const certificate = new Certificate(this, 'Certificate', config);
    const listener = balancer.addListener('Https', {
      port: 443,
      protocol: elb.ApplicationProtocol.HTTPS,
      sslPolicy: elb.SslPolicy.RECOMMENDED_TLS,
      certificates: [certificate.certificate],
      open: false,
    });
    const targets = listener.addTargets('Tasks', {
      port: SERVICE_PORT,
      protocol: elb.ApplicationProtocol.HTTPS,
      targets: [service.loadBalancerTarget({ containerName: CONTAINER, containerPort: SERVICE_PORT })],
      deregistrationDelay: Duration.seconds(30),
      healthCheck: {
        path: '/readyz',
        protocol: elb.Protocol.HTTPS,
        interval: Duration.seconds(10),
        timeout: Duration.seconds(5),
        healthyThresholdCount: 2,
        unhealthyThresholdCount: 3,
      },
    });
    scaling.scaleOnRequestCount('Requests', {
      requestsPerTarget: config.service.requestsPerTask,
      targetGroup: targets,
    });
    if (config.service.hostedZone) {
      const zone = new route53.PrivateHostedZone(this, 'Zone', { zoneName: rest.join('.'), vpc: network.vpc });
      new route53.ARecord(this, 'Name', {
        zone,
        recordName: first,
        target: route53.RecordTarget.fromAlias(new LoadBalancerTarget(balancer)),
      });
    }
    return { url: `https://${domainName}`, balancer, tasks: targets };
  }
}
