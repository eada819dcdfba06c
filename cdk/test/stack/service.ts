import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { PROJECT } from '../../lib/functions.ts';
import type { Given } from '../../lib/config.ts';
import { SETTINGS, world, World } from '../world.ts';

const service = (it: World) => it.one('ECS::Service');
const task = (it: World) => it.one('ECS::TaskDefinition');
const container = (it: World) => {
  const [only, ...others] = task(it).ContainerDefinitions;
  assert.equal(others.length, 0);
  return only;
};
const variables = (it: World) =>
  Object.fromEntries(container(it).Environment.map(({ Name, Value }: any) => [Name, it.text(Value)]));

test("tasks are of the original design's sizes, on either architecture", () => {
  const size = (it: World) => [task(it).Cpu, task(it).Memory, task(it).RuntimePlatform.CpuArchitecture];
  assert.deepEqual(size(world('default')), ['2048', '4096', 'ARM64']);
  assert.deepEqual(size(world('discovery')), ['512', '1024', 'ARM64']);
  assert.deepEqual(size(world('spot')), ['4096', '8192', 'X86_64']);
});

test('a task has no privileges, writes nothing of its own, and says whether it is well', () => {
  const it = world('default');
  const { User, ReadonlyRootFilesystem, Privileged, LinuxParameters, HealthCheck, MountPoints, StopTimeout } =
    container(it);
  assert.deepEqual([User, ReadonlyRootFilesystem, Privileged, MountPoints], ['1000:1000', true, undefined, undefined]);
  assert.deepEqual(LinuxParameters.Capabilities, { Drop: ['ALL'] });
  assert.deepEqual(HealthCheck.Command, ['CMD', '/file-service', 'healthy']);
  assert.deepEqual([StopTimeout, task(it).Volumes], [30, undefined]);
  assert.equal(task(it).NetworkMode, 'awsvpc');
  assert.deepEqual(task(it).RequiresCompatibilities, ['FARGATE']);
  assert.equal(it.text(container(it).LogConfiguration.Options['awslogs-group']), '<Service/Log>');
});

test('the image is one of ECR, or is built of the project', () => {
  assert.match(world('default').text(container(world('default')).Image), /container-assets/);
  const it = world('spot');
  assert.match(it.text(container(it).Image), /\/efs-autoscale\/router:1\.2\.3$/);
});

test('it is its own NFS client, through its access point and with TLS; in its own name where that is asked for', () => {
  const common = {
    AWS_REGION: '<AWS::Region>',
    EFS_FILE_SYSTEM_ID: '<Storage/FileSystem>',
    LISTEN: '0.0.0.0:8443',
    LISTEN_TLS: 'made',
    METRICS: 'emf',
    REFRESH_SECONDS: '60',
  };
  const nfs = {
    ...common,
    BACKEND: 'nfs',
    NFS_TLS: 'efs',
    EFS_ACCESS_POINT_ID: '<Storage/Serving>',
    CONNECTIONS_PER_TARGET: 'auto',
  };
  assert.deepEqual(variables(world('default')), { ...nfs, SSM_PARAMETER_NAME: '/efs-mount-autoscaling/mount-targets' });
  assert.deepEqual(variables(world('discovery')), { ...nfs, NFS_IAM: '1', SSM_PARAMETER_NAME: '/files/targets' });
});

test('the token is in Secrets Manager only', () => {
  const it = world('default');
  assert.deepEqual(
    container(it).Secrets.map(({ Name, ValueFrom }: any) => [Name, it.text(ValueFrom)]),
    [['AUTH_TOKEN', '<Service/Token>']],
  );
  assert.equal(it.at('Service/Token').GenerateSecretString.PasswordLength, 48);
  assert(!('AUTH_TOKEN' in variables(it)) && !('AUTH' in variables(it)));
});

test('three tasks over all zones; a deployment that fails is taken back', () => {
  const it = world('default');
  const { DesiredCount, DeploymentConfiguration, NetworkConfiguration, LaunchType } = service(it);
  assert.deepEqual([DesiredCount, LaunchType], [0, 'FARGATE'], 'none at the first deployment');
  assert.deepEqual(DeploymentConfiguration, {
    DeploymentCircuitBreaker: { Enable: true, Rollback: true },
    MinimumHealthyPercent: 100,
    MaximumPercent: 200,
  });
  const { AssignPublicIp, Subnets, SecurityGroups } = NetworkConfiguration.AwsvpcConfiguration;
  assert.deepEqual([AssignPublicIp, Subnets.length], ['DISABLED', 3]);
  assert.deepEqual(
    SecurityGroups.map((group: unknown) => it.text(group)),
    ['<Network/Tasks.GroupId>'],
  );
});

test('what auto scaling has made of a service that runs is left alone', () => {
  const counts = (account: Given['account'], desiredCount = 3) => {
    const it = new World({ ...SETTINGS.inVpc, account, service: { ...SETTINGS.inVpc.service, desiredCount } });
    return [service(it).DesiredCount, it.one('ApplicationAutoScaling::ScalableTarget').MinCapacity];
  };
  const account = (now: number | null, serviceName = 'efs-mount-autoscaling-fargate') => ({
    serviceName,
    desiredCount: now,
    zones: [],
    lambdaConcurrency: 10,
  });
  const zones = { zones: ['a', 'b', 'c'] };
  assert.deepEqual(counts(undefined), [0, 0], 'a template that nobody has asked an account for');
  assert.deepEqual(counts({ ...account(null), ...zones }), [0, 0], 'the first deployment');
  assert.deepEqual(counts({ ...account(0), ...zones }), [3, 3], 'the second one');
  assert.deepEqual(counts({ ...account(7), ...zones }), [undefined, 3]);
  assert.deepEqual(counts({ ...account(7), ...zones }, 0), [0, 0], 'it is to stop');
  const other = account(7, 'efs-mount-autoscaling-fargate-spot');
  assert.deepEqual(counts({ ...other, ...zones }), [7, 3], 'it takes the place of another');
});

test('an internal load balancer speaks HTTPS on both sides', () => {
  const it = world('default');
  const { Scheme, Subnets, LoadBalancerAttributes } = it.one('ElasticLoadBalancingV2::LoadBalancer');
  assert.deepEqual([Scheme, Subnets.length], ['internal', 3]);
  const attributes = Object.fromEntries(LoadBalancerAttributes.map(({ Key, Value }: any) => [Key, Value]));
  assert.equal(attributes['deletion_protection.enabled'] ?? 'false', 'false');
  assert.equal(attributes['routing.http.drop_invalid_header_fields.enabled'], 'true');
  const listener = it.one('ElasticLoadBalancingV2::Listener');
  assert.deepEqual([listener.Port, listener.Protocol], [443, 'HTTPS']);
  assert.match(listener.SslPolicy, /TLS13-1-2/);
  assert.equal(it.text(listener.Certificates[0].CertificateArn), '<Service/Certificate/Made/Default>');
  const targets = it.one('ElasticLoadBalancingV2::TargetGroup');
  assert.deepEqual([targets.Port, targets.Protocol, targets.TargetType], [8443, 'HTTPS', 'ip']);
  assert.deepEqual([targets.HealthCheckPath, targets.HealthCheckProtocol], ['/readyz', 'HTTPS']);
  assert.equal(service(it).LoadBalancers[0].ContainerPort, 8443);
  const { Name, Type } = it.one('Route53::RecordSet');
  assert.deepEqual([Name, Type], ['files.efs-autoscale.internal.', 'A']);
  assert.equal(it.one('Route53::HostedZone').VPCs.length, 1);
});

test('its certificate is made, for its name, or given', () => {
  const it = world('default');
  const { DomainName, Tag, ServiceToken } = it.one('Custom::SelfSignedCertificate');
  assert.deepEqual(
    [DomainName, Tag, it.text(ServiceToken)],
    ['files.efs-autoscale.internal', 'efs-mount-autoscaling', '<Service/Certificate/Maker.Arn>'],
  );
  const given = world('spot');
  assert.equal(given.all('Custom::SelfSignedCertificate').length, 0);
  assert.match(given.one('ElasticLoadBalancingV2::Listener').Certificates[0].CertificateArn, /^arn:aws:acm:/);
  assert.equal(given.all('Lambda::Function').length, 6, 'and nothing is there to make one');
});

test('there are more tasks when processors or requests ask for them', () => {
  const scales = (it: World) => {
    const { MinCapacity, MaxCapacity } = it.one('ApplicationAutoScaling::ScalableTarget');
    const policies = it.all('ApplicationAutoScaling::ScalingPolicy').map(({ is }) => {
      const { PredefinedMetricSpecification, TargetValue } = is.TargetTrackingScalingPolicyConfiguration;
      return [PredefinedMetricSpecification.PredefinedMetricType, TargetValue];
    });
    return { least: MinCapacity, most: MaxCapacity, ...Object.fromEntries(policies) };
  };
  assert.deepEqual(scales(world('later')), {
    least: 3,
    most: 12,
    ECSServiceAverageCPUUtilization: 60,
    ALBRequestCountPerTarget: 60_000,
  });
  assert.deepEqual(scales(world('spot')), {
    least: 0,
    most: 20,
    ECSServiceAverageCPUUtilization: 50,
    ALBRequestCountPerTarget: 1000,
  });
  assert.deepEqual(
    scales(world('discovery')),
    { least: 0, most: 12, ECSServiceAverageCPUUtilization: 60 },
    'nobody counts requests there',
  );
});

test('Fargate Spot, by choice, for all but the first task', () => {
  const it = world('spot');
  const strategy = service(it).CapacityProviderStrategy.map(({ CapacityProvider, Base, Weight }: any) => [
    CapacityProvider,
    Base,
    Weight,
  ]);
  assert.deepEqual(strategy, [
    ['FARGATE', 1, 0],
    ['FARGATE_SPOT', undefined, 1],
  ]);
  const [providers] = it.all('ECS::ClusterCapacityProviderAssociations');
  assert.deepEqual(providers?.is.CapacityProviders, ['FARGATE', 'FARGATE_SPOT']);
  const waits = it.resources.find(({ type }) => type === 'AWS::ECS::Service')?.dependsOn;
  assert(waits?.includes(providers?.path ?? ''), 'ECS knows none of them before');
  assert.equal(service(it).LaunchType, undefined);
});

test('discovery, by choice, and no load balancer then', () => {
  const it = world('discovery');
  assert.equal(it.all('ElasticLoadBalancingV2::LoadBalancer').length, 0);
  assert.equal(it.one('ServiceDiscovery::PrivateDnsNamespace').Name, 'files.internal');
  const { Name, DnsConfig } = it.one('ServiceDiscovery::Service');
  assert.deepEqual([Name, DnsConfig.DnsRecords], ['data', [{ TTL: 10, Type: 'A' }]]);
  assert.equal(service(it).ServiceRegistries.length, 1);
  assert.equal(it.template.Outputs.ServiceUrl.Value, 'https://data.files.internal:8443');
});

test('on managed instances the kernel may mount, with one capability for it', () => {
  const it = world('managed');
  const { User, ReadonlyRootFilesystem, LinuxParameters } = container(it);
  assert.deepEqual([User, ReadonlyRootFilesystem], ['0:0', false]);
  assert.deepEqual(LinuxParameters.Capabilities, { Drop: ['ALL'], Add: ['SYS_ADMIN'] });
  const { BACKEND, MOUNT, NFS_TLS } = variables(it);
  assert.deepEqual([BACKEND, MOUNT, NFS_TLS], ['mounted', 'kernel', undefined]);
  assert.deepEqual(task(it).RequiresCompatibilities, ['MANAGED_INSTANCES']);
  const [{ CapacityProvider }] = service(it).CapacityProviderStrategy;
  assert.equal(it.text(CapacityProvider), '<Service/Instances/Instances>');
  assert.equal(
    it.one('ECS::CapacityProvider').ManagedInstancesProvider.InstanceLaunchTemplate.NetworkConfiguration.Subnets.length,
    3,
  );
});

test('of a service that is there, nothing is made', () => {
  const it = world('existing');
  const types = [
    'ECS::',
    'ElasticLoadBalancingV2::',
    'ApplicationAutoScaling::',
    'ServiceDiscovery::',
    'SecretsManager::',
    'Route53::',
    'Events::',
  ];
  for (const type of types)
    assert.deepEqual(
      it.resources.filter((one) => one.type.includes(type)),
      [],
      type,
    );
  assert.deepEqual([it.template.Outputs.ServiceOwned.Value, it.template.Outputs.ServiceName.Value], ['false', 'files']);
  assert.equal(it.template.Outputs.ServiceUrl, undefined);
});

test('every variable of a task is one that the service reads, and its image is a stage of the Dockerfile', () => {
  const known = readFileSync(join(PROJECT, 'crates/file-service/src/config.rs'), 'utf8');
  for (const name of ['default', 'discovery', 'managed'] as const) {
    const given = [
      ...Object.keys(variables(world(name))),
      ...container(world(name)).Secrets.map((secret: any) => secret.Name),
    ];
    // The SDK reads that one.
    for (const variable of given.filter((variable) => variable !== 'AWS_REGION')) {
      assert.match(known, new RegExp(`^    ${variable} +\\S`, 'm'), `${name}: ${variable}`);
    }
  }
  const [target] = [...new Set(world('default').images)];
  const stages = [
    ...readFileSync(join(PROJECT, 'crates/file-service/Dockerfile'), 'utf8').matchAll(/^FROM \S+ AS (\S+)$/gm),
  ].map(([, stage]) => stage);
  assert(stages.includes(target) && stages.includes('mounted'), `${target} and mounted, of ${stages}`);
});

test("in another account's VPC the name is for its owner to make", () => {
  const it = world('adopted');
  assert.deepEqual([it.all('Route53::HostedZone').length, it.all('Route53::RecordSet').length], [0, 0]);
  assert.equal(it.text(it.template.Outputs.BalancerName.Value), '<Service/Balancer.DNSName>');
  assert.equal(world('default').all('Route53::HostedZone').length, 1);
});

test('what tasks run on is said for who starts one, where it is not Fargate', () => {
  assert.match(world('managed').text(world('managed').template.Outputs.CapacityProvider.Value), /Instances/);
  assert.equal(world('default').template.Outputs.CapacityProvider, undefined);
});
