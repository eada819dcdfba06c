/**
 * What the system knows of the data stack. Each value is published in Parameter Store by the one and a parameter of the
 * other's template. CloudFormation looks them up anew whenever the system is deployed, once for each value: a reference
 * between stacks it looks up for each place where it stands, and a changed one does not change the other stack.
 */
import { CfnParameter, Fn } from 'aws-cdk-lib';
import * as backup from 'aws-cdk-lib/aws-backup';
import * as ssm from 'aws-cdk-lib/aws-ssm';
import type { Construct } from 'constructs';
import type { Config } from './config.ts';
import type { Data } from './data.ts';
import { DataNetwork } from './network.ts';
import { DataStorage } from './storage.ts';

/** The network and the storage of the data stack, as the system sees them. */
export function shared(scope: Construct, config: Config, data: Data | undefined) {
  const { existing: network } = config.network;
  const { existing: storage } = config.storage;
  const value = (id: string, description: string, published: string): string => {
    if (!data) throw new Error(`${id} is nobody's`);
    const parameterName = `/efs-autoscale/${config.stack.name}/${id}`;
    new ssm.StringParameter(data, `Shared${id}`, { parameterName, stringValue: published, description });
    const type = 'AWS::SSM::Parameter::Value<String>';
    return new CfnParameter(scope, id, { type, default: parameterName, description }).valueAsString;
  };
  const vpc = () => {
    if (!data) throw new Error('a network that nobody has made');
    const { vpc, subnets, cidr } = data.network;
    const list = (id: string, description: string, items: string[]) => {
      const text = value(id, description, items.join(','));
      return items.map((_, index) => Fn.select(index, Fn.split(',', text)));
    };
    const tables = list(
      'RouteTableIds',
      'The route table of each of them',
      subnets.map((subnet) => subnet.routeTable.routeTableId),
    );
    const ids = list(
      'PrivateSubnetIds',
      'The subnet of each zone',
      subnets.map((subnet) => subnet.subnetId),
    );
    const zones = config.network.zoneNames ?? ids.map((_, index) => Fn.select(index, Fn.getAzs()));
    return {
      vpc: value('NetworkId', 'The VPC', vpc.vpcId),
      cidr,
      subnets: ids.map((id, index) => ({ id, zone: zones[index] ?? '', routeTable: tables[index] ?? '' })),
    };
  };
  const targets = () => value('TargetsGroupId', 'Of the mount targets', data?.network.targets.securityGroupId ?? '');
  // As if somebody else had made all of it.
  const seen: Config = {
    ...config,
    network: { ...config.network, existing: network ?? vpc() },
    storage: {
      ...config.storage,
      existing: {
        ...storage,
        fileSystem:
          storage?.fileSystem ?? value('FilesId', 'The file system', data?.storage.fileSystem.fileSystemId ?? ''),
        securityGroup: storage?.securityGroup ?? targets(),
      },
    },
  };
  const imported = new DataNetwork(scope, 'GivenNetwork', seen);
  const vault = data?.storage.vault && value('VaultName', 'Of the backups', data.storage.vault.backupVaultName);
  return {
    network: imported,
    storage: new DataStorage(scope, 'GivenStorage', seen, imported),
    vault: vault ? backup.BackupVault.fromBackupVaultName(scope, 'GivenVault', vault) : undefined,
  };
}
