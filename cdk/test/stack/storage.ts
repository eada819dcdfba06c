import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NAMES, world, type Name, type World } from '../world.ts';

const statements = (it: World) =>
  it.one('EFS::FileSystem').FileSystemPolicy.Statement.map((one: any) => {
    const [kind, condition] = Object.entries<any>(one.Condition)[0]!;
    const [key, value] = Object.entries<any>(condition)[0]!;
    const actions = [one.Action].flat().map((action: string) => action.replace('elasticfilesystem:', ''));
    assert.deepEqual(one.Principal, { AWS: '*' });
    return `${one.Effect} ${actions.join(' ')}: ${kind} ${key} ${it.text(value)}`;
  });
const COUNT =
  'Deny ClientWrite: ArnLike aws:PrincipalArn arn:<AWS::Partition>:iam::<AWS::AccountId>:role/efs-mount-autoscaling/count/*';
const TLS = 'Deny *: Bool aws:SecureTransport false';

test('the file system is encrypted by a key of its own, and cools down', () => {
  const it = world('default');
  const { Encrypted, KmsKeyId, PerformanceMode, ThroughputMode, LifecyclePolicies } = it.one('EFS::FileSystem');
  assert.deepEqual([Encrypted, it.text(KmsKeyId)], [true, '<Storage/Key.Arn>']);
  assert.equal(it.at('Storage/Key').EnableKeyRotation, true);
  assert.deepEqual([PerformanceMode, ThroughputMode], ['generalPurpose', 'elastic']);
  assert.deepEqual(LifecyclePolicies, [
    { TransitionToIA: 'AFTER_30_DAYS' },
    { TransitionToPrimaryStorageClass: 'AFTER_1_ACCESS' },
  ]);
  assert.deepEqual(it.warnings, []);
});

test("the original design's other modes, with a warning of the one that AWS advises against", () => {
  const modes = (it: World) => {
    const { PerformanceMode, ThroughputMode, ProvisionedThroughputInMibps } = it.one('EFS::FileSystem');
    return [PerformanceMode, ThroughputMode, ProvisionedThroughputInMibps];
  };
  assert.deepEqual(modes(world('spot')), ['generalPurpose', 'provisioned', 128]);
  assert.deepEqual(modes(world('discovery')), ['generalPurpose', 'bursting', undefined]);
  assert.deepEqual(modes(world('managed')), ['maxIO', 'bursting', undefined]);
  assert.match(world('managed').warnings.join('\n'), /AWS advises against Max I\/O/);
});

test('it has two mount targets to begin with, in the first zones', () => {
  const targets = (it: World) =>
    it
      .all('EFS::MountTarget')
      .map(({ is }) => [it.text(is.SubnetId), ...is.SecurityGroups.map((group: unknown) => it.text(group))]);
  const expected = (zones: number[]) =>
    zones.map((zone) => [`<Network/Vpc/PrivateSubnet${zone}/Subnet>`, '<Network/Targets.GroupId>']);
  assert.deepEqual(targets(world('default')), expected([1, 2]));
  assert.deepEqual(targets(world('spot')), expected([1, 2]), "the third is the pipeline's to make");
});

test('count reads everything, and the service is no privileged user', () => {
  const points = (it: World) =>
    Object.fromEntries(
      it.all('EFS::AccessPoint').map(({ path, is }) => [path, [is.PosixUser.Uid, is.PosixUser.Gid, is.RootDirectory]]),
    );
  const owned = (path: string) => ({
    Path: path,
    CreationInfo: { OwnerUid: '1000', OwnerGid: '1000', Permissions: '755' },
  });
  const both = (path: string) => ({
    'Storage/Counting': ['0', '0', owned(path)],
    'Storage/Serving': ['1000', '1000', owned(path)],
  });
  assert.deepEqual(points(world('default')), both('/data'));
  assert.deepEqual(points(world('discovery')), both('/srv/files'));
  assert.deepEqual(
    points(world('managed')),
    { 'Storage/Counting': ['0', '0', { Path: '/' }] },
    'a kernel mounts all of it',
  );
  assert.deepEqual(points(world('existing')), { 'Storage/Counting': ['0', '0', owned('/data')] });
});

test('only with TLS; and only with a permission, by choice', () => {
  const reaches = (actions: string) => `Allow ${actions}: Bool elasticfilesystem:AccessedViaMountTarget true`;
  assert.deepEqual(statements(world('default')), [COUNT, TLS, reaches('ClientMount ClientWrite')]);
  assert.deepEqual(statements(world('discovery')), [COUNT, TLS], 'with IAM nobody is allowed here');
  assert.deepEqual(statements(world('managed')), [COUNT, reaches('ClientMount ClientRootAccess ClientWrite')]);
});

test('count is known by the path of its role, which no other role is below', () => {
  const it = world('default');
  const paths = it.all('IAM::Role').map(({ path, is }) => [path, is.Path]);
  assert.deepEqual(
    paths.filter(([, path]) => path !== undefined),
    [['Roles/Count', '/efs-mount-autoscaling/count/']],
  );
});

test('a backup each day, kept for 30 days, of this file system', () => {
  const it = world('default');
  const { BackupPlanRule: rules } = it.one('Backup::BackupPlan').BackupPlan;
  assert.deepEqual(
    rules.map((rule: any) => [rule.ScheduleExpression, rule.Lifecycle, it.text(rule.TargetBackupVault)]),
    [['cron(0 0 * * ? *)', { DeleteAfterDays: 30 }, '<Storage/Backups.BackupVaultName>']],
  );
  const { Resources } = it.one('Backup::BackupSelection').BackupSelection;
  assert.deepEqual(
    Resources.map((one: unknown) => it.text(one)),
    ['arn:<AWS::Partition>:elasticfilesystem:<AWS::Region>:<AWS::AccountId>:file-system/<Storage/FileSystem>'],
  );
  const { EncryptionKeyArn, BackupVaultName } = it.one('Backup::BackupVault');
  assert.equal(it.text(EncryptionKeyArn), '<Storage/Key.Arn>');
  assert.match(
    JSON.stringify(BackupVaultName),
    /AWS::StackId/,
    'a vault that outlives its stack is not in the way of the next',
  );
  assert.equal(world('discovery').all('Backup::BackupPlan').length, 0);
});

test('what holds files outlives the stack, unless it may not', () => {
  const deletion = (it: World) =>
    it.resources
      .filter(({ path }) => ['Storage/FileSystem', 'Storage/Key', 'Storage/Backups'].includes(path))
      .map((one) => one.deletion);
  assert.deepEqual(deletion(world('default')), Array(3).fill('RetainExceptOnCreate'));
  assert.deepEqual(deletion(world('discovery')), ['Delete', 'Delete']);
  const stacks = (it: World) => new Map(it.resources.map(({ path, stack }) => [path, stack]));
  const of = stacks(world('default'));
  for (const path of ['Storage/FileSystem', 'Storage/Key', 'Storage/Backups', 'Network/Vpc', 'Network/Targets']) {
    assert.equal(of.get(path), 'efs-mount-autoscaling-data', path);
  }
  // What is made again is not what is protected.
  for (const path of ['Network/Functions', 'Storage/Counting', 'Pipeline/Count', 'Service/FileService/Service']) {
    assert.equal(of.get(path), 'efs-mount-autoscaling', path);
  }
  assert.deepEqual(
    [world('default').data?.terminationProtection, world('default').system.terminationProtection],
    [true, false],
  );
  assert.equal(world('adopted').data, undefined, 'nothing is made that a second stack would be for');
});

test('of a file system that is there, only an access point is made', () => {
  for (const name of ['restored', 'adopted', 'existing'] as const) {
    const it = world(name);
    for (const type of ['FileSystem', 'MountTarget']) assert.equal(it.all(`EFS::${type}`).length, 0, type);
    for (const type of ['BackupVault', 'BackupPlan', 'BackupSelection'])
      assert.equal(it.all(`Backup::${type}`).length, 0, type);
    for (const { is } of it.all('EFS::AccessPoint')) assert.equal(is.FileSystemId, 'fs-00000000');
  }
});

test("the published parameter and the ledger are the pipeline's, and in no template", () => {
  for (const name of ['default', 'spot', 'existing'] as const)
    for (const { path, is } of world(name).all('SSM::Parameter')) {
      assert.match(path, /^Shared/);
      assert.notEqual(is.Name, world(name).config.pipeline.parameterName);
    }
});

test('the system is told of the data by parameters: a handful, each looked up once and whenever it is deployed', () => {
  const published = (name: Name) =>
    world(name)
      .all('SSM::Parameter')
      .map(({ is, stack }) => (assert.equal(stack, 'efs-mount-autoscaling-data'), is.Name))
      .sort();
  const names = (...ids: string[]) => ids.map((id) => `/efs-autoscale/efs-mount-autoscaling/${id}`);
  const network = ['NetworkId', 'PrivateSubnetIds', 'RouteTableIds', 'TargetsGroupId'];
  assert.deepEqual(published('default'), names('FilesId', ...network, 'VaultName'));
  assert.deepEqual(published('discovery'), names('FilesId', ...network), 'no backups, no vault');
  assert.deepEqual(published('restored'), names(...network));
  assert.deepEqual(published('adopted'), []);
  for (const name of NAMES) {
    const { template } = world(name);
    // A reference is looked up for each place where it stands, and CloudFormation is refused at some 75 of them.
    assert.doesNotMatch(JSON.stringify(template), /Fn::GetStackOutput|Fn::ImportValue/, name);
    const asked = Object.values<any>(template.Parameters ?? {}).filter(({ Type }) => /^AWS::SSM/.test(Type));
    const names = asked.map(({ Default }) => Default).filter((one) => one.startsWith('/efs-autoscale/'));
    assert.deepEqual(names.sort(), published(name), name);
  }
});
