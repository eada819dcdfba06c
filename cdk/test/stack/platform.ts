/** What a platform team asks of the stacks. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FUNCTIONS, stateOf, type FunctionName } from '../../lib/functions.ts';
import { world } from '../world.ts';

test('every resource that has tags has those of the settings', () => {
  const it = world('platform');
  for (const type of ['EC2::VPC', 'EFS::FileSystem', 'Lambda::Function', 'ECS::Service', 'KMS::Key', 'SQS::Queue']) {
    const found = it.all(type);
    assert(found.length > 0, type);
    for (const { path, is } of found) {
      const tags = is.Tags ?? is.FileSystemTags;
      assert(
        tags.some(({ Key, Value }: any) => Key === 'cost-center' && Value === '42'),
        path,
      );
    }
  }
});

test('every role is within the boundary, that of the certificate and of the backups too', () => {
  const it = world('platform');
  const roles = [...it.all('IAM::Role'), ...world('platform').all('IAM::User')];
  assert(roles.length >= 10);
  for (const { path, is } of roles) assert.match(it.text(is.PermissionsBoundary), /:policy\/platform\/boundary$/, path);
  for (const { is } of world('default').all('IAM::Role')) assert.equal(is.PermissionsBoundary, undefined);
});

test('logs, token and queue are encrypted by a key of the settings, and who uses them may use it', () => {
  const it = world('platform');
  for (const { path, is } of it.all('Logs::LogGroup'))
    assert.match(it.text(is.KmsKeyId), /<Encryption\/Key\.Arn>/, path);
  assert.match(it.text(it.at('Service/Token').KmsKeyId), /<Encryption\/Key\.Arn>/);
  assert.match(it.text(it.at('Pipeline/NotStarted').KmsMasterKeyId), /<Encryption\/Key\.Arn>/);
  const keys = it.resources.filter(({ path }) => path === 'Encryption/Key');
  assert.equal(keys.length, 2, 'one in each stack, so that neither needs the other to be deleted');
  for (const { is } of keys) {
    const logs = is.KeyPolicy.Statement.find(({ Sid }: any) => Sid === 'Logs');
    assert.match(it.text(logs.Principal.Service), /^logs\.<AWS::Region>/);
    assert(logs.Condition.ArnLike['kms:EncryptionContext:aws:logs:arn']);
  }
  const schedule = it.all('IAM::Policy').find(({ path }) => path === 'Pipeline/ScheduleRole/DefaultPolicy');
  assert.match(JSON.stringify(schedule?.is), /kms:GenerateDataKey/);
  const execution = it.all('IAM::Policy').find(({ path }) => path === 'Service/Task/ExecutionRole/DefaultPolicy');
  assert.match(JSON.stringify(execution?.is), /kms:Decrypt/);
  assert.equal(it.all('Lambda::Function').length, 6);
  for (const { is } of world('default').all('Logs::LogGroup')) assert.equal(is.KmsKeyId, undefined);
});

test('the load balancer writes its log into a bucket that lets it', () => {
  const it = world('platform');
  const { LoadBalancerAttributes } = it.one('ElasticLoadBalancingV2::LoadBalancer');
  const attributes = Object.fromEntries(LoadBalancerAttributes.map(({ Key, Value }: any) => [Key, it.text(Value)]));
  assert.equal(attributes['access_logs.s3.enabled'], 'true');
  assert.equal(attributes['access_logs.s3.bucket'], '<Service/AccessLogs>');
  const balancer = it.resources.find(({ path }) => path === 'Service/Balancer');
  assert(balancer?.dependsOn.includes('Service/AccessLogs/Policy'), 'it writes at once');
  const { Statement } = it.at('Service/AccessLogs/Policy').PolicyDocument;
  const writes = Statement.find(({ Sid }: any) => Sid === 'LoadBalancer');
  assert.deepEqual(
    [writes.Action, writes.Principal.Service],
    ['s3:PutObject', 'logdelivery.elasticloadbalancing.amazonaws.com'],
  );
  assert.match(it.text(writes.Resource), /^<Service\/AccessLogs\.Arn>\/AWSLogs\/<AWS::AccountId>\/\*$/);
});

test('an image by its digest needs neither Docker nor Rust; ECS Exec has its endpoint and a disk', () => {
  const it = world('platform');
  assert.match(
    it.text(it.one('ECS::TaskDefinition').ContainerDefinitions[0].Image),
    /\/files\/router@sha256:[0-9a-f]{64}$/,
  );
  assert.deepEqual(it.images, []);
  assert.equal(it.one('ECS::Service').EnableExecuteCommand, true);
  assert.equal(it.one('ECS::TaskDefinition').ContainerDefinitions[0].ReadonlyRootFilesystem, false);
  const endpoints = it.all('EC2::VPCEndpoint').map(({ is }) => it.text(is.ServiceName));
  assert(
    endpoints.some((name) => name.endsWith('.ssmmessages')),
    endpoints.join(),
  );
  assert(
    !world('default')
      .all('EC2::VPCEndpoint')
      .some(({ is }) => world('default').text(is.ServiceName).includes('ssmmessages')),
  );
});

test('count may read everything at every so many counts only', () => {
  const count = world('platform').at(`Pipeline/${stateOf('count')}`);
  assert.equal(count.Environment.Variables.COUNT_FULL_EVERY, '12');
});

test('traces go where the settings say, from every function and from the service', () => {
  const variables = (name: FunctionName) => world('platform').at(`Pipeline/${stateOf(name)}`).Environment.Variables;
  assert.deepEqual(
    FUNCTIONS.map((name) => variables(name).OTEL_EXPORTER_OTLP_ENDPOINT),
    FUNCTIONS.map(() => 'http://localhost:4318'),
  );
  const container = world('platform').one('ECS::TaskDefinition').ContainerDefinitions[0];
  const set = container.Environment.find(({ Name }: { Name: string }) => Name === 'OTEL_EXPORTER_OTLP_ENDPOINT');
  assert.equal(set.Value, 'https://collector.example.com/otlp');
  const byDefault = world('default').at(`Pipeline/${stateOf('count')}`).Environment.Variables;
  assert.equal(byDefault.OTEL_EXPORTER_OTLP_ENDPOINT, undefined);
});
