import assert from 'node:assert/strict';
import { test } from 'node:test';
import { world } from '../world.ts';

const endpoints = (name: Parameters<typeof world>[0]) => {
  const it = world(name);
  return it
    .all('EC2::VPCEndpoint')
    .map(({ is }) => it.text(is.ServiceName).split('<AWS::Region>.')[1])
    .sort();
};

test('three private zones with literal networks, without an account, and no way to the internet', () => {
  const it = world('default');
  assert.equal(it.one('EC2::VPC').CidrBlock, '10.0.0.0/16');
  const subnets = it.all('EC2::Subnet').map(({ is }) => [is.CidrBlock, is.AvailabilityZone, is.MapPublicIpOnLaunch]);
  assert.deepEqual(
    subnets,
    [0, 1, 2].map((zone) => [`10.0.${zone + 1}.0/24`, { 'Fn::Select': [zone, { 'Fn::GetAZs': '' }] }, false]),
  );
  for (const type of ['InternetGateway', 'NatGateway', 'EgressOnlyInternetGateway', 'EIP', 'Route']) {
    assert.equal(it.all(`EC2::${type}`).length, 0, type);
  }
});

test('as many zones, and the network, as the settings say', () => {
  const it = world('spot');
  assert.equal(it.one('EC2::VPC').CidrBlock, '10.20.0.0/16');
  assert.deepEqual(
    it.all('EC2::Subnet').map(({ is }) => is.CidrBlock),
    [1, 2, 3, 4].map((zone) => `10.20.${zone}.0/24`),
  );
});

test('endpoints of what is called from within, and of nothing else', () => {
  const service = ['ecr.api', 'ecr.dkr', 'elasticfilesystem', 'logs', 's3', 'secretsmanager', 'ssm'];
  assert.deepEqual(endpoints('default'), service);
  assert.deepEqual(endpoints('inVpc'), [...service, 'ec2', 'ecs'].sort());
  assert.deepEqual(endpoints('managed'), [...service, 'ecs', 'ecs-agent', 'ecs-telemetry'].sort());
  assert.deepEqual(endpoints('existing'), ['ssm'], 'for the count that is used again');
  assert.deepEqual(endpoints('adopted'), []);
  const it = world('default');
  for (const { is } of it.all('EC2::VPCEndpoint')) {
    if (is.VpcEndpointType === 'Gateway') {
      assert.deepEqual(
        is.RouteTableIds.map((table: unknown) => it.text(table)),
        [1, 2, 3].map((zone) => `<Network/Vpc/PrivateSubnet${zone}/RouteTable>`),
      );
      assert.deepEqual(
        is.PolicyDocument.Statement.map((one: any) => [one.Effect, one.Action, it.text(one.Resource)]),
        [['Allow', 's3:GetObject', 'arn:<AWS::Partition>:s3:::prod-<AWS::Region>-starport-layer-bucket/*']],
      );
    } else {
      assert.equal(is.PrivateDnsEnabled, true);
      assert.equal(is.SubnetIds.length, 3);
      assert.deepEqual(
        is.SecurityGroupIds.map((group: unknown) => it.text(group)),
        ['<Network/Endpoints.GroupId>'],
      );
    }
  }
});

test("security groups are the original design's", () => {
  const it = world('default');
  const [functions, tasks, targets] = ['Functions', 'Tasks', 'Targets'].map((name) => `<Network/${name}.GroupId>`);
  const out = ['to 0.0.0.0/0 tcp 443', `to ${targets} tcp 2049`];
  assert.deepEqual(it.rules('Network/Functions'), out);
  assert.deepEqual(it.rules('Network/Tasks'), ['from <Service/Entry.GroupId> tcp 8443', ...out]);
  assert.deepEqual(it.rules('Network/Targets'), [`from ${functions} tcp 2049`, `from ${tasks} tcp 2049`]);
  assert.deepEqual(it.rules('Network/Endpoints'), [`from ${functions} tcp 443`, `from ${tasks} tcp 443`]);
  assert.deepEqual(it.rules('Service/Entry'), ['from 10.0.0.0/16 tcp 443', `to ${tasks} tcp 8443`]);
  assert.equal(it.all('EC2::SecurityGroup').length, 5);
});

test('only the clients that are named reach the service', () => {
  const it = world('discovery');
  const out = ['to 0.0.0.0/0 tcp 443', 'to <Network/Targets.GroupId> tcp 2049'];
  assert.deepEqual(it.rules('Network/Tasks'), ['from 192.168.0.0/24 tcp 8443', ...out]);
});

test("the VPC's connections are logged, by choice, for a week", () => {
  const it = world('default');
  const { ResourceId, TrafficType, LogGroupName } = it.one('EC2::FlowLog');
  assert.deepEqual([it.text(ResourceId), TrafficType], ['<Network/Vpc>', 'ALL']);
  assert.equal(it.text(LogGroupName), '<Network/FlowLogs>');
  assert.equal(it.at('Network/FlowLogs').RetentionInDays, 7);
  assert.equal(world('spot').all('EC2::FlowLog').length, 0);
});

test('in a VPC that is there, nothing is made of one, and its groups get what they need', () => {
  for (const name of ['adopted', 'existing'] as const) {
    const it = world(name);
    for (const type of ['VPC', 'Subnet', 'RouteTable', 'FlowLog']) assert.equal(it.all(`EC2::${type}`).length, 0, type);
    for (const { is } of it.all('EC2::SecurityGroup')) assert.equal(is.VpcId, 'vpc-00000000');
  }
  const into = (name: 'adopted' | 'existing') => {
    const it = world(name);
    const ingress = it.all('EC2::SecurityGroupIngress').filter(({ is }) => is.GroupId === 'sg-00000001');
    return ingress.map(({ is }) => [it.text(is.SourceSecurityGroupId), is.FromPort]);
  };
  assert.deepEqual(into('adopted'), [
    ['<Network/Functions.GroupId>', 2049],
    ['<Network/Tasks.GroupId>', 2049],
  ]);
  assert.deepEqual(
    into('existing'),
    [['<Network/Functions.GroupId>', 2049]],
    'a second rule like one that is there would be refused',
  );
});

test('nothing runs before the network lets it through', () => {
  const it = world('default');
  const before = (path: string) => it.resources.find((resource) => resource.path === path)?.dependsOn ?? [];
  const rules = it
    .all('EC2::SecurityGroupEgress')
    .filter(({ path }) => path.startsWith('Network/'))
    .map(({ path }) => path);
  assert.equal(rules.length, 2);
  for (const path of ['Pipeline/Count', 'Service/FileService/Service']) {
    for (const rule of rules) assert(before(path).includes(rule), `${path} waits for ${rule}`);
    for (const { path: endpoint } of it.all('EC2::VPCEndpoint'))
      assert(before(path).includes(endpoint), `${path} waits for ${endpoint}`);
    for (const { path: rule } of it.all('EC2::SecurityGroupIngress').filter(({ path }) => path.startsWith('Network/T')))
      assert(before(path).includes(rule), `${path} waits for ${rule}`);
  }
  // The mount targets are in the other stack, which is deployed first.
  assert.deepEqual(
    it.system.dependencies.map(({ stackName }) => stackName),
    ['efs-mount-autoscaling-data'],
  );
});
