/** The file system, what protects it, and the ways in. */
import { Annotations, ArnFormat, Duration, Fn, RemovalPolicy, Size, Stack, Validations } from 'aws-cdk-lib';
import * as backup from 'aws-cdk-lib/aws-backup';
import type * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as efs from 'aws-cdk-lib/aws-efs';
import * as events from 'aws-cdk-lib/aws-events';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as kms from 'aws-cdk-lib/aws-kms';
import { Construct } from 'constructs';
import type { Config } from './config.ts';
import type { DataNetwork } from './network.ts';

/** Who owns the service's files, and who its tasks are: the original design's, and no privileged user. */
export const OWNER = '1000';

/** The stack makes these; more than two are the pipeline's to make, which may have been where it would make the next. */
const MAX_TARGETS_OF_STACK = 2;

/** What outlives the system: the files, and what protects them. */
export class DataStorage extends Construct {
  readonly fileSystem: efs.IFileSystem;
  /** The subnets in whose zones the stack knows of a mount target: a Lambda mounts nowhere else. */
  readonly mountable: ec2.ISubnet[];
  readonly key?: kms.Key;
  readonly vault?: backup.BackupVault;

  constructor(scope: Construct, id: string, config: Config, network: DataNetwork) {
    super(scope, id);
    const { existing } = config.storage;
    const first = network.subnets.slice(0, Math.min(config.scaling.initialMountTargets, MAX_TARGETS_OF_STACK));
    if (existing) {
      this.fileSystem = efs.FileSystem.fromFileSystemAttributes(this, 'FileSystem', {
        fileSystemId: existing.fileSystem,
        securityGroup: network.targets,
      });
      this.mountable = existing.targetSubnets
        ? network.subnets.filter((subnet) => existing.targetSubnets?.includes(subnet.subnetId))
        : first;
      return;
    }
    // What a first deployment that failed has made is empty, and goes with it.
    const removalPolicy = config.storage.retain ? RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE : RemovalPolicy.DESTROY;
    this.key = new kms.Key(this, 'Key', {
      description: 'EFS files and their backups',
      enableKeyRotation: true,
      removalPolicy,
    });
    const fileSystem = this.createFileSystem(config, network, first, removalPolicy);
    this.fileSystem = fileSystem;
    this.mountable = first;
    if (config.storage.backup) this.vault = this.backUp(fileSystem, removalPolicy);
  }

  private createFileSystem(config: Config, network: DataNetwork, subnets: ec2.ISubnet[], removalPolicy: RemovalPolicy) {
    const { performance, throughput, provisionedMibps } = config.storage;
    if (performance === 'max-io') {
      Annotations.of(this).addWarningV2(
        'efs-autoscale:max-io',
        'AWS advises against Max I/O: each call takes longer, and it cannot be changed later',
      );
    }
    const fileSystem = new efs.FileSystem(this, 'FileSystem', {
      vpc: network.vpc,
      vpcSubnets: { subnets },
      securityGroup: network.targets,
      encrypted: true,
      kmsKey: this.key,
      performanceMode: performance === 'max-io' ? efs.PerformanceMode.MAX_IO : efs.PerformanceMode.GENERAL_PURPOSE,
      throughputMode: {
        elastic: efs.ThroughputMode.ELASTIC,
        bursting: efs.ThroughputMode.BURSTING,
        provisioned: efs.ThroughputMode.PROVISIONED,
      }[throughput],
      provisionedThroughputPerSecond: provisionedMibps ? Size.mebibytes(provisionedMibps) : undefined,
      lifecyclePolicy: efs.LifecyclePolicy.AFTER_30_DAYS,
      outOfInfrequentAccessPolicy: efs.OutOfInfrequentAccessPolicy.AFTER_1_ACCESS,
      // Its own plan is below.
      enableAutomaticBackups: false,
      removalPolicy,
      fileSystemPolicy: new iam.PolicyDocument({ statements: policy(this, config) }),
      // Who is anonymous is said there: else the library adds a statement by which everybody writes, and as root.
      allowAnonymousAccess: true,
    });
    return fileSystem;
  }

  /** Daily at midnight, kept for 30 days: the original design's. */
  private backUp(fileSystem: efs.FileSystem, removalPolicy: RemovalPolicy) {
    const vault = new backup.BackupVault(this, 'Backups', {
      // The vault of an earlier stack of this name may have outlived it, and keeps its name.
      backupVaultName: `efs-backups-${Fn.select(2, Fn.split('/', Stack.of(this).stackId))}`,
      encryptionKey: this.key,
      // A vault with backups in it cannot be deleted: with `retain=false` it has to be emptied first.
      removalPolicy,
    });
    const plan = new backup.BackupPlan(this, 'BackupPlan', {
      backupVault: vault,
      backupPlanRules: [
        new backup.BackupPlanRule({
          ruleName: 'daily',
          scheduleExpression: events.Schedule.cron({ hour: '0', minute: '0' }),
          startWindow: Duration.hours(1),
          completionWindow: Duration.hours(8),
          deleteAfter: Duration.days(30),
        }),
      ],
    });
    const selection = plan.addSelection('Selection', {
      resources: [backup.BackupResource.fromEfsFileSystem(fileSystem)],
    });
    Validations.of(selection).acknowledge({
      id: 'AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AWSBackupServiceRolePolicyForBackup]',
      reason: 'the policy that AWS Backup asks for, which changes with what it does',
    });
    return vault;
  }
}

/** The two ways in: one that reads all of it, one that the service uses. */
export class Storage extends Construct {
  readonly fileSystem: efs.IFileSystem;
  readonly mountable: ec2.ISubnet[];
  readonly vault?: backup.IBackupVault;
  /** Reads everything below the service's directory, as root. */
  readonly counting: efs.AccessPoint;
  /** The service's directory, as its owner. Not for a kernel that mounts, which knows of none. */
  readonly serving?: efs.AccessPoint;

  constructor(scope: Construct, id: string, config: Config, data: DataStorage, vault?: backup.IBackupVault) {
    super(scope, id);
    ({ fileSystem: this.fileSystem, mountable: this.mountable } = data);
    this.vault = vault;
    const mounts = config.service.backend === 'mounted';
    const path = mounts ? '/' : config.storage.directory;
    const directory = {
      fileSystem: this.fileSystem,
      path,
      // Whoever comes first makes the directory, and it is the service's.
      ...(path !== '/' && { createAcl: { ownerUid: OWNER, ownerGid: OWNER, permissions: '755' } }),
    };
    this.counting = new efs.AccessPoint(this, 'Counting', { ...directory, posixUser: { uid: '0', gid: '0' } });
    if (!mounts && !config.service.existing) {
      this.serving = new efs.AccessPoint(this, 'Serving', { ...directory, posixUser: { uid: OWNER, gid: OWNER } });
    }
  }
}

/** What EFS asks of everybody, whatever their own permissions are. */
function policy(scope: Construct, config: Config): iam.PolicyStatement[] {
  const any = [new iam.AnyPrincipal()];
  const statements = [
    // The function's role does not have it either; a statement for everybody, below, must not give it.
    new iam.PolicyStatement({
      sid: 'CountNeverWrites',
      effect: iam.Effect.DENY,
      principals: any,
      actions: ['elasticfilesystem:ClientWrite'],
      // By its path: the role is in the other stack, and has no name before it is there.
      conditions: { ArnLike: { 'aws:PrincipalArn': countRoles(scope, config) } },
    }),
  ];
  if (config.storage.requireTls) {
    statements.push(
      new iam.PolicyStatement({
        sid: 'OnlyWithTls',
        effect: iam.Effect.DENY,
        principals: any,
        actions: ['*'],
        conditions: { Bool: { 'aws:SecureTransport': 'false' } },
      }),
    );
  }
  if (!config.storage.requireIam) {
    // Whoever reaches a mount target, which the security groups say. With IAM nobody is allowed here, so that only
    // those come in whose role allows it. Root is who mounts by way of the kernel; the service is its access point's.
    const actions = ['ClientMount', 'ClientWrite'];
    if (config.service.backend === 'mounted' || config.service.existing) actions.push('ClientRootAccess');
    statements.push(
      new iam.PolicyStatement({
        sid: 'WhoeverReachesATarget',
        principals: any,
        actions: actions.map((action) => `elasticfilesystem:${action}`),
        conditions: { Bool: { 'elasticfilesystem:AccessedViaMountTarget': 'true' } },
      }),
    );
  }
  return statements;
}

/** The path of `count`'s role, which no other role is below. */
export function countPath(config: Config) {
  return `/${config.stack.name}/count/`;
}

function countRoles(scope: Construct, config: Config) {
  return Stack.of(scope).formatArn({
    service: 'iam',
    region: '',
    resource: `role${countPath(config)}*`,
    arnFormat: ArnFormat.NO_RESOURCE_NAME,
  });
}

/** The ARN of a subnet. One that is there may be shared by another account, which then stands in its ARN. */
export function subnetArn(scope: Construct, config: Config, subnetId: string) {
  const account = config.network.existing ? '*' : undefined;
  return Stack.of(scope).formatArn({ service: 'ec2', resource: 'subnet', resourceName: subnetId, account });
}
